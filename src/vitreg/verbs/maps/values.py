"""The result of `maps`: arrays of every kind of map, per model and block. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from vitreg.notebook import facts
from vitreg.records import Skipped


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMaps:
    """Maps of n images by one block of one model. Maps not requested or not available are None or empty.

    Args:
        model: its spec, or the name of its class.
        layer: the block, counted from 0; hidden states are its output, before the final norm.
        depth: number of blocks.
        tokens: N, the number of attended tokens; uniform attention is 1 / N. Patches without a token are NaN in all maps.
        image_size: (height, width) in pixels.
        grid: (rows, cols).
        inputs: the area of the images that the patches cover, as the model saw it.
        attention: "CLS", "register 1", ... -> attention of that token to the patches, mean over heads.
        heads: the same for each head.
        pca: first principal component, in standard deviations over all patches of all images (or of each).
        rgb: the first three components as colours in 0..1.
        norm: L2 norm of the patch tokens.
        components: sentence on how the principal components were fitted.
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

    def __repr__(self) -> str:
        (rows, cols), kinds = self.grid, [name for name in ("pca", "rgb", "norm") if getattr(self, name) is not None]
        kinds += [f"attention of {token}" for token in self.attention]
        drawn = ", ".join(kinds)
        return (
            f"ModelMaps({self.model} block {self.layer}; {len(self.inputs)} images of {rows}x{cols} patches; {drawn})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MapsResult:
    """Maps of one set of images.

    Args:
        images: names, in the order of the first axis of all arrays.
        maps: one entry per model and layer, in the order requested.
        skipped: images that could not be read, and why.
        notes: the maps that a model cannot give, with the reason, and the notes of loading it.
        paths: the sheets written.
        there: number of images to choose from; None if unknown, as behind a URL.
    """

    images: tuple[str, ...]
    maps: tuple[ModelMaps, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    there: int | None = None

    def __repr__(self) -> str:
        drawn = ", ".join(f"{each.model} block {each.layer}" for each in self.maps)
        return f"MapsResult({len(self.images)} images; {drawn})"

    def _repr_html_(self) -> str:
        drawn = [(f"{each.model} block {each.layer}", repr(each)) for each in self.maps]
        return facts("MapsResult", [("images", len(self.images)), *drawn, *(("sheet", path) for path in self.paths)])
