"""Describe the Vision Transformer of a set of tensors in a few words, for messages about a file that does not fit a
model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from vitreg.models.settings import SIZES

_NAMED: dict[tuple[int | str, int], str] = {(width, depth): name for name, (width, depth, _heads) in SIZES.items()}


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """Name a ViT by its canonical tensors: "a ViT-S/14 with 4 registers", or its dimensions if they have no name."""
    projection, registers = tensors.get("patch_embed.proj.weight"), tensors.get("reg_token")
    width, patch, depth = "?", "?", len(blocks_in(tensors))
    if projection is not None and projection.ndim == 4:
        width, patch = len(projection), "x".join(map(str, dict.fromkeys(projection.shape[2:])))
    count = registers.shape[-2] if registers is not None and registers.ndim > 1 else 0
    name = _NAMED.get((width, depth))
    more = f" with {count} register{'s' * (count != 1)}" if count else " without registers"
    return (f"a ViT-{name}/{patch}" if name else f"a ViT of width {width}, depth {depth} and patch {patch}") + more


def blocks_in(names: Iterable[str]) -> set[str]:
    """Return the block numbers in canonical names."""
    return {name.split(".")[1] for name in names if name.startswith("blocks.")}
