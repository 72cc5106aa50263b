"""The photographs that scikit-image ships: what `vitreg demo` scans, and the backgrounds of synthetic scenes."""

from __future__ import annotations

import numpy as np
from PIL import Image

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "moon",
    "rocket",
)
"""Photographs among scikit-image's test pictures; the rest are drawings, scans and microscopy."""


def photograph(name: str) -> Image.Image:
    """Return one of `PHOTOGRAPHS` in RGB.

    Raises:
        ImportError: if scikit-image is not installed.
    """
    from skimage import data

    return Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")
