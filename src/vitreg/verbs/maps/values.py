"""The result of `maps`: arrays of every kind of map, per model and block. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from vitreg.errors import UserError, unknown
from vitreg.notebook import facts
from vitreg.records import Skipped

What = Literal["attention", "heads", "registers", "pca", "rgb", "norm"]
WHAT: tuple[What, ...] = get_args(What)


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


def kinds_of(what: What | Sequence[What]) -> tuple[What, ...]:
    """Return the kinds of maps requested. Raises UserError for an unknown kind, or none."""
    kinds: tuple[What, ...] = (what,) if isinstance(what, str) else tuple(what)  # type: ignore[assignment]
    for kind in kinds:
        if kind not in WHAT:
            raise unknown("kind of map", str(kind), WHAT)
    if not kinds:
        raise UserError(f"no kind of map was asked for; known: {', '.join(WHAT)}.")
    return kinds


def weights_of(weights: Any, models: int) -> list[str | Path | None]:
    """Return a checkpoint or None for each of several models. Raises UserError if the numbers differ."""
    files = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    if files == [None]:
        return [None] * models
    if len(files) != models:
        raise UserError(
            f"{len(files)} weights for {models} model{'s' * (models != 1)}; give one for each, none where a model keeps its own."
        )
    return files


def check_mass(mass: float | None) -> None:
    """Raise UserError for a share of the attention outside (0, 1]."""
    if mass is not None and not 0 < mass <= 1:
        raise UserError(f"mass is {mass:g}; it is a share of the attention, above 0 and at most 1.")
