"""Which Vision Transformer a set of tensors is, in a few words: what a person reads where a file and a model do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from vitreg.models.settings import SIZES

_NAMED = {(width, depth): name for name, (width, depth, _heads) in SIZES.items()}


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """Name a ViT by its canonical tensors: "a ViT-S/14 with 4 registers", or its measures where they have no name."""
    projection = tensors.get("patch_embed.proj.weight")
    width = "?" if projection is None else len(projection)
    patch = "?" if projection is None or projection.ndim != 4 else _side(projection.shape[-2], projection.shape[-1])
    depth = len(blocks_in(tensors))
    name = _NAMED.get((width, depth)) if isinstance(width, int) else None
    registers = tensors["reg_token"].shape[-2] if "reg_token" in tensors else 0
    more = f" with {registers} register{'s' * (registers != 1)}" if registers else " without registers"
    return (f"a ViT-{name}/{patch}" if name else f"a ViT of width {width}, depth {depth} and patch {patch}") + more


def blocks_in(names: Iterable[str]) -> set[str]:
    """Return the numbers of the blocks that canonical names speak of."""
    return {name.split(".")[1] for name in names if name.startswith("blocks.")}


def _side(rows: int, cols: int) -> str:
    return str(rows) if rows == cols else f"{rows}x{cols}"
