"""What tokens of a block take of the attention, how long their values are, and their norms: patches, registers and CLS.

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
SINK = 0.3  # share of an average patch's attention that one token of a head takes, at least (Gu et al. 2025)


@dataclass(frozen=True)
class Taken:
    """One block over all images, for each patch, register and CLS: what it takes, how long its value is, and its norm.

    Args:
        attention: mean over patch queries and heads; the keys of an image sum to 1, or less where heads may look at nothing.
        values: norm of its value / mean norm of all values of the head, mean over heads.
        norms: of the patches after the block.
        register_attention, register_values, register_norms: the same of registers.
        cls_attention, cls_values, cls_norms: the same of CLS; K is 0 without.
        number: effective number of registers that a head looks at, exp of the entropy of their shares, mean over heads.
        sinks: share of the heads in which one token takes at least 0.3.
    """

    attention: Float[Tensor, "n P"]
    values: Float[Tensor, "n P"]
    norms: Float[Tensor, "n P"]
    register_attention: Float[Tensor, "n R"]
    register_values: Float[Tensor, "n R"]
    register_norms: Float[Tensor, "n R"]
    cls_attention: Float[Tensor, "n K"]
    cls_values: Float[Tensor, "n K"]
    cls_norms: Float[Tensor, "n K"]
    number: Float[Tensor, " n"]
    sinks: Float[Tensor, " n"]

    @property
    def ratio(self) -> float:
        """Largest norm of an image over its median, median over images; infinite where medians are 0."""
        norms = self.norms.double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.median(np.nanmax(norms, 1) / np.nanmedian(norms, 1)))

    @property
    def median(self) -> Float[Tensor, "n 1"]:
        """Median norm of each image's patches."""
        return self.norms.nanquantile(0.5, 1, keepdim=True)

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
    layout, after = trace.layout_before(layer), trace.layout_after(layer)
    by_head = trace.attention(layer, queries).mean(2)  # [B, heads, N]
    values = value_ratios(trace.read_rows(layer), len(by_head))[:, : layout.length]
    attention, norms = by_head.mean(1), trace.norms(layer)
    registers = list(layout.registers)
    return Taken(
        attention=_patches(layout, attention), values=_patches(layout, values), norms=_patches(after, norms),
        register_attention=attention[:, registers].cpu(), register_values=values[:, registers].cpu(),
        register_norms=_beside(norms, after.registers, layout.registers),
        cls_attention=attention[:, list(layout.cls)].cpu(), cls_values=values[:, list(layout.cls)].cpu(),
        cls_norms=_beside(norms, after.cls, layout.cls),
        number=effective_number(by_head[:, :, registers]).nanmean(1).cpu(),
        sinks=(by_head.amax(2) >= SINK).float().mean(1).cpu(),
    )  # fmt: skip


def effective_number(shares: Float[Tensor, "*n R"]) -> Float[Tensor, "*n"]:
    """Return exp of the entropy of shares, which need not sum to 1: R where they are equal, 1 where one has all; NaN of nothing.

    >>> p = shares / shares.sum()
    >>> number = exp(-sum(p * log(p)))
    """
    p = shares.double() / shares.double().sum(-1, keepdim=True)
    return torch.where(p.isnan().any(-1), torch.nan, torch.special.entr(p).sum(-1).exp()).to(shares.dtype)


def value_ratios(read: ReadRows, images: int) -> Float[Tensor, "B M"]:
    """Return the norm of each key's value over the mean norm of all values of its head, mean over heads.

    This is the number by which the scan tells a no-op sink (at most 0.2) from a broadcast (at least 0.5).
    """
    norms = read.value_norms  # [B heads, M], image by image
    ratios = norms / norms.mean(1, keepdim=True).clamp(min=torch.finfo(norms.dtype).tiny)
    return ratios.unflatten(0, (images, -1)).mean(1)


def _patches(layout: TokenLayout, values: Float[Tensor, "B N"]) -> Float[Tensor, "B P"]:
    return layout.take(values, -1).float().cpu()


def _beside(norms: Float[Tensor, "B N"], there: tuple[int, ...], before: tuple[int, ...]) -> Float[Tensor, "B K"]:
    """Return the norms of tokens after the block; NaN where the block removed some of them."""
    if len(there) != len(before):
        return torch.full((len(norms), len(before)), torch.nan)
    return norms[:, list(there)].float().cpu()


def _joined(blocks: tuple[Taken, ...]) -> Taken:
    def of(name: str) -> Iterator[Tensor]:
        return (getattr(each, name) for each in blocks)

    return Taken(**{name: torch.cat(list(of(name))) for name in Taken.__dataclass_fields__})
