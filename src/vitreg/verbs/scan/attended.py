"""Which token an average patch looks at most, image by image, and what each register takes and holds; of one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.records import TokenKind
from vitreg.verbs.scan.taking import Taken

KINDS: tuple[TokenKind, ...] = get_args(TokenKind)


@dataclass(frozen=True)
class Tiles:
    """What the data say of the patches of each image.

    Args:
        background: patches that they call background; None where they do not say.
        marked: patches that are asked more than others.
    """

    background: Bool[Tensor, "n P"] | None = None
    marked: Bool[Tensor, "n P"] | None = None

    def kinds(self, shape: torch.Size) -> Int64[Tensor, "n P"]:
        """Return the kind of each patch, as an index of `KINDS`."""
        found = torch.full(shape, KINDS.index("patch"))
        if self.marked is not None:
            found = torch.where(self.marked, KINDS.index("marked"), KINDS.index("unmarked"))
        if self.background is not None:
            found[self.background] = KINDS.index("background")
        return found


def most_attended(taken: Taken, tiles: Tiles) -> dict[str, Any] | None:
    """Return the fields of `records.Attended`, of all patches, registers and CLS; None where nothing is looked at."""
    beside = [("register", taken.register_attention), ("cls", taken.cls_attention)]
    kinds = [tiles.kinds(taken.attention.shape)]
    kinds += [torch.full(shares.shape, KINDS.index(kind)) for kind, shares in beside]
    return _most(
        torch.cat([taken.attention, taken.register_attention, taken.cls_attention], 1),
        torch.cat([taken.values, taken.register_values, taken.cls_values], 1),
        torch.cat([taken.norms, taken.register_norms, taken.cls_norms], 1) / taken.median,
        torch.cat(kinds, 1),
    )


def most_of_foreground(taken: Taken, tiles: Tiles) -> dict[str, Any] | None:
    """Return the same of patches that are not background; None where the data do not say which are."""
    if tiles.background is None:
        return None
    shares = taken.attention.masked_fill(tiles.background, torch.nan)
    return _most(shares, taken.values, taken.norms / taken.median, tiles.kinds(shares.shape))


def _most(
    shares: Float[Tensor, "n M"], values: Float[Tensor, "n M"], norms: Float[Tensor, "n M"], kinds: Int64[Tensor, "n M"]
) -> dict[str, Any] | None:
    """Return what the token with the largest share of each image has; images without any are left out."""
    known = ~shares.isnan().all(1)
    if not known.any():
        return None
    at = shares.nan_to_num(nan=-1.0).argmax(1, keepdim=True)[known]  # of equal ones the first

    def of(numbers: Tensor) -> Tensor:
        return numbers[known].gather(1, at).squeeze(1)

    found = of(kinds)
    return {
        "attention": float(of(shares).mean()), "values": float(of(values).nanmean()), "norm": float(of(norms).nanquantile(0.5)),
        "kinds": {kind: share for i, kind in enumerate(KINDS) if (share := float((found == i).float().mean()))},
    }  # fmt: skip


def by_register(taken: Taken) -> Mapping[str, Any] | None:
    """Return the fields of `records.ByRegister`; None without registers."""
    if not taken.register_attention.shape[1]:
        return None
    return {
        "attention": taken.register_attention.mean(0).tolist(), "values": taken.register_values.mean(0).tolist(),
        "norms": (taken.register_norms / taken.median).nanquantile(0.5, 0).tolist(), "number": float(taken.number.nanmean()),
    }  # fmt: skip


def norms_of_kinds(taken: Taken, chosen: Bool[Tensor, "n P"] | None) -> float | None:
    """Return the mean norm of chosen patches over the median of all, median over images; None where there are none."""
    if chosen is None or not chosen.any():
        return None
    each = (taken.norms / taken.median).masked_fill(~chosen, torch.nan)
    return float(each.nanmean(1).nanquantile(0.5))


def norms_of_registers(taken: Taken) -> float | None:
    """Return the same of registers; None without."""
    if not taken.register_norms.shape[1]:
        return None
    return float((taken.register_norms / taken.median).nanmean(1).nanquantile(0.5))
