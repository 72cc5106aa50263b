"""Perceptually uniform colour tables, readable without colour vision and in grey print."""

from __future__ import annotations

from functools import cache

import matplotlib
import numpy as np


@cache
def palette(name: str) -> np.ndarray:
    """Return a colour table, uint8 [256, 3], by the name matplotlib gives it."""
    return np.rint(255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).astype(np.uint8)
