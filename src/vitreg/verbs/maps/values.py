"""Maps of images by one block of one model: arrays of every kind. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8


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

    @property
    def named(self) -> dict[str, Float32[np.ndarray, "n rows cols"]]:
        """Every map of one number for each patch, by name: "norm", "attention of CLS", "pca", ..."""
        found = {
            "norm": self.norm,
            **{f"attention of {name}": each for name, each in self.attention.items()},
            "pca": self.pca,
        }
        return {name: each for name, each in found.items() if each is not None}
