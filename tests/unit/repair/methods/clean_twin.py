"""A repaired planted model beside its clean twin: how far its tokens are restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET
from vitreg.models import planted


@dataclass(frozen=True)
class Restored:
    """Mean cosines of final patch tokens to the clean twin's."""

    normal: float
    outliers: float


def pictures(paths: Sequence[Path]) -> Tensor:
    return torch.stack([IMAGENET(Image.open(path).convert("RGB")) for path in paths])


def restored(fixed: Backbone, truth: planted.Truth, seed: int, images: Tensor) -> Restored:
    """Compare a repaired planted model with its clean twin on normalised images."""
    twin = Backbone(planted.clean(seed, kind=truth.kind))
    cosines = F.cosine_similarity(fixed(images).patches, twin(images).patches, dim=-1)
    outliers = truth.outliers(images)
    return Restored(float(cosines[~outliers].mean()), float(cosines[outliers].mean()))
