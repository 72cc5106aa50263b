"""What kinds of tokens take of the attention, and how long their values are: outliers, background and registers of a block.

The sums are of single images; a look at a network in training reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.backbones import Backbone, Capture, Trace
from vitreg.backbones.trace import ReadRows
from vitreg.tokens import TokenLayout

AT_ONCE = 32  # images of one forward


@dataclass(frozen=True)
class Taken:
    """One block over all images, for each patch and register: what it takes, how long its value is, and its norm.

    Args:
        attention: mean over patch queries and heads; the keys of an image sum to 1, CLS and others left out here.
        values: norm of its value / mean norm of all values of the head, mean over heads.
        norms: of the patches after the block.
        register_attention, register_values: the same of registers.
    """

    attention: Float[Tensor, "n P"]
    values: Float[Tensor, "n P"]
    norms: Float[Tensor, "n P"]
    register_attention: Float[Tensor, "n R"]
    register_values: Float[Tensor, "n R"]

    @property
    def ratio(self) -> float:
        """Largest norm of an image over its median, median over images; infinite where medians are 0."""
        norms = self.norms.double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.median(np.nanmax(norms, 1) / np.nanmedian(norms, 1)))

    def by(self, chosen: Bool[Tensor, "n P"] | None) -> tuple[float | None, float | None]:
        """Return what the chosen patches take together, mean over images, and their mean value; None where there are none."""
        if chosen is None or not chosen.any():
            return None, None
        return float((self.attention.nan_to_num() * chosen).sum(1).mean()), float(self.values[chosen].nanmean())

    def by_registers(self) -> tuple[float | None, float | None]:
        """Return what the registers take together, mean over images, and their mean value; None without registers."""
        if not self.register_attention.shape[1]:
            return None, None
        return float(self.register_attention.sum(1).mean()), float(self.register_values.mean())


def taken_by_block(backbone: Backbone, pixels: Float[Tensor, "n 3 H W"], queries: list[list[int]]) -> list[Taken]:
    """Run the images once, and return what every block's tokens take.

    Args:
        queries: for each block, the tokens whose attention is read; patches, to say what an average patch looks at.
    """
    capture = Capture(norms="all", rows=dict(enumerate(queries)), read=_everything)
    parts: list[list[Taken]] = []
    with torch.inference_mode():
        for images in pixels.split(AT_ONCE):
            trace = backbone.trace(images, capture)
            parts.append([_of_block(trace, layer, queries[layer]) for layer in range(backbone.depth)])
    return [_joined(blocks) for blocks in zip(*parts, strict=True)]


def _everything(rows: Float[Tensor, "B heads Q M"]) -> Bool[Tensor, "B heads"]:
    return torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)


def _of_block(trace: Trace, layer: int, queries: list[int]) -> Taken:
    rows, layout = trace.attention(layer, queries), trace.layout_before(layer)  # [B, heads, Q, N]
    attention = rows.mean((1, 2))  # [B, N]
    values = value_ratios(trace.read_rows(layer), rows.shape[0])[:, : layout.length]
    registers = list(layout.registers)
    return Taken(
        attention=_patches(layout, attention), values=_patches(layout, values),
        norms=_patches(trace.layout_after(layer), trace.norms(layer)),
        register_attention=attention[:, registers].cpu(), register_values=values[:, registers].cpu(),
    )  # fmt: skip


def value_ratios(read: ReadRows, images: int) -> Float[Tensor, "B M"]:
    """Return the norm of each key's value over the mean norm of all values of its head, mean over heads.

    This is the number by which the scan tells a no-op sink (at most 0.2) from a broadcast (at least 0.5).
    """
    norms = read.value_norms  # [B heads, M], image by image
    ratios = norms / norms.mean(1, keepdim=True).clamp(min=torch.finfo(norms.dtype).tiny)
    return ratios.unflatten(0, (images, -1)).mean(1)


def _patches(layout: TokenLayout, values: Float[Tensor, "B N"]) -> Float[Tensor, "B P"]:
    return layout.take(values, -1).float().cpu()


def _joined(blocks: tuple[Taken, ...]) -> Taken:
    def of(name: str) -> Iterator[Tensor]:
        return (getattr(each, name) for each in blocks)

    return Taken(**{name: torch.cat(list(of(name))) for name in Taken.__dataclass_fields__})
