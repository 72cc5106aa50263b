"""Backgrounds of synthetic scenes: crops of scikit-image's photographs, or drawn textures where it is not installed."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vitreg.data.sets.synthetic.photographs import PHOTOGRAPHS, photograph

_KEPT_SIDE = 640  # pixels of the longer side of a photograph that is kept for crops
_CELLS = (4, 8, 16, 32, 64)  # across a drawn texture, from coarse to fine


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """Return the photographs that crops are taken of; none where scikit-image or one of its files is missing."""
    try:
        found = tuple(photograph(name) for name in PHOTOGRAPHS)
    except (ImportError, OSError):
        return ()
    for image in found:
        image.thumbnail((_KEPT_SIDE, _KEPT_SIDE))
    return found


def kind() -> str:
    """Say what the backgrounds are, in words."""
    return "crops of scikit-image's photographs" if photographs() else "drawn textures, as scikit-image is missing"


def background(draw: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return a background, all of whose choices are drawn from the generator."""
    kept = photographs()
    return _crop(kept, draw, height, width) if kept else _texture(draw, height, width)


def _crop(
    kept: tuple[Image.Image, ...], draw: np.random.Generator, height: int, width: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Take a part of a photograph, mirrored or not, somewhat brighter or darker."""
    image = kept[draw.integers(len(kept))]
    scale = draw.uniform(0.4, 1.0) * min(image.width / width, image.height / height)
    w, h = scale * width, scale * height
    x, y = draw.uniform(0, image.width - w), draw.uniform(0, image.height - h)
    part = image.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h), reducing_gap=2.0)
    pixels = np.asarray(part)[:, :: draw.choice((1, -1))]
    light = np.clip(np.arange(256) * draw.uniform(0.8, 1.15) + draw.uniform(-15, 15), 0, 255).astype(np.uint8)
    return light[pixels]


def _texture(draw: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """Draw smooth light over the whole picture, and noise of several scales over the parts of it that are not flat."""
    amplitudes = draw.uniform(0.3, 1.0) / np.sqrt(np.arange(1, len(_CELLS) + 1))
    rough = sum(a * _noise(draw, cells, height, width) for a, cells in zip(amplitudes, _CELLS, strict=True))
    where = np.clip(0.5 + 3 * _noise(draw, 3, height, width), 0, 1)  # 0 in the flat regions
    slope = draw.uniform(-60, 60, (2, 3))
    light = np.linspace(-0.5, 0.5, height)[:, None, None] * slope[0] + np.linspace(-0.5, 0.5, width)[:, None] * slope[1]
    base, tint = draw.uniform(60, 200, 3), draw.uniform(20, 60, 3)
    return np.clip(base + light + (rough * where)[..., None] * tint, 0, 255).astype(np.uint8)


def _noise(draw: np.random.Generator, cells: int, height: int, width: int) -> Float32[np.ndarray, "H W"]:
    grid = Image.fromarray(draw.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
