"""A small ViT with registers, and two images for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitreg.models.vit import VisionTransformer


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, 3, 3, registers=2)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
