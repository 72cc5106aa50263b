"""What `maps` leaves behind: arrays of every kind of map, per model and block. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from vitreg.records import Skipped

What = Literal["attention", "heads", "registers", "pca", "rgb", "norm"]
WHAT: tuple[What, ...] = get_args(What)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMaps:
    """Maps of n images by one block of one model. What was not asked for, or cannot be had, is None or empty.

    Args:
        model: its spec, or the name of its class.
        layer: the block, counted from 0; hidden states are its output, before the final norm.
        depth: number of blocks.
        tokens: N, of which a uniform attention would give 1 / N to each.
        image_size: (height, width) in pixels.
        grid: (rows, cols).
        inputs: what the patches cover of the images, as the model saw it.
        attention: "CLS", "register 1", ... -> attention of that token to the patches, mean over heads.
        heads: the same, every head apart.
        pca: first principal component, in standard deviations over all patches of all images (or of each).
        rgb: the first three components as colours in 0..1.
        norm: L2 norm of the patch tokens.
        components: how the principal components were fitted, in words.
    """

    model: str
    layer: int
    depth: int
    tokens: int
    image_size: tuple[int, int]
    grid: tuple[int, int]
    inputs: UInt8[np.ndarray, "n H W 3"]
    attention: dict[str, Float32[np.ndarray, "n rows cols"]] = field(default_factory=dict)
    heads: dict[str, Float32[np.ndarray, "n heads rows cols"]] = field(default_factory=dict)
    pca: Float32[np.ndarray, "n rows cols"] | None = None
    rgb: Float32[np.ndarray, "n rows cols 3"] | None = None
    norm: Float32[np.ndarray, "n rows cols"] | None = None
    components: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapsResult:
    """Maps of one set of images.

    Args:
        images: names, in the order of the first axis of all arrays.
        maps: one entry per model and layer, in the order asked for.
        skipped: images that could not be read, and why.
        notes: which maps cannot be had from which model and why, and what was said when a model was loaded.
        paths: the sheets that were written.
    """

    images: tuple[str, ...]
    maps: tuple[ModelMaps, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
