"""Images for the models of `hub_vit`."""

from __future__ import annotations

import pytest
import torch
from tests.unit.backbones.weights.hub_vit import SIZE
from torch import Tensor


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
