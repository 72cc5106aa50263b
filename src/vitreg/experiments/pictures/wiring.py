"""How registers are wired into a model, found by changing things: which tokens have positions, and what the output depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.trace import Capture
from vitreg.experiments.pictures.scheme import ROLES
from vitreg.tokens import TokenLayout

FAR = 1e-5  # of the largest value: less is rounding


def wiring(backbone: Backbone, seed: int = 0) -> tuple[dict[str, float | None], list[float]]:
    """Return numbers of the layout and of what depends on what, and the order of the tokens.

    Returns:
        numbers; and the sequence that enters block 0 as [role, how many, role, how many, ...], see `scheme.ROLES`.
    """
    anatomy, size = backbone.anatomy, backbone.anatomy.native_size
    first, last = backbone.layouts(size)[0], backbone.layouts(size)[-1]
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(1, anatomy.channels, *size, generator=draw)
    numbers: dict[str, float | None] = {
        "registers": float(len(last.registers)), "registers_at_input": float(len(first.registers)),
        "cls": float(len(first.cls)), "patches": float(first.num_patches), "rows": float(first.grid[0]),
        "cols": float(first.grid[1]), "patch_height": float(anatomy.patch[0]), "patch_width": float(anatomy.patch[1]),
        "width": float(anatomy.width), "blocks": float(backbone.depth),
    }  # fmt: skip
    numbers |= _moved_by_positions(backbone, images, first, draw)
    numbers["output_changed"] = _changed_by_registers(backbone, images, last) if last.registers else None
    return numbers, _order(first)


@torch.no_grad()
def _moved_by_positions(
    backbone: Backbone, images: Tensor, layout: TokenLayout, draw: torch.Generator
) -> dict[str, float | None]:
    """Count the tokens that enter block 0 otherwise, once tables of positions have been changed."""
    tables = [
        each for name, each in backbone.anatomy.tower.named_parameters() if "pos" in name.rpartition("rope")[2].lower()
    ]
    before, kept = backbone.trace(images, Capture(input=True)).input, [each.clone() for each in tables]
    try:
        for each in tables:
            each.add_(
                torch.randn(each.shape, generator=draw).to(each) * (each.float().std().nan_to_num(1.0) + 1e-3).to(each)
            )
        after = backbone.trace(images, Capture(input=True)).input
    finally:
        for each, old in zip(tables, kept, strict=True):
            each.copy_(old)
    moved = (after - before).abs().amax(-1)[0] > FAR * before.abs().amax()  # [N]
    patches = layout.patch_index[layout.present]
    return {
        "tables": float(len(tables)), "registers_moved": float(moved[list(layout.registers)].sum()),
        "cls_moved": float(moved[list(layout.cls)].sum()), "patches_moved": float(moved[patches].sum()),
    }  # fmt: skip


@dataclass(frozen=True)
class Disturb:
    """Adds noise to the registers of a block's output."""

    size: float

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        """Return the tokens [B, N, D] with other registers."""
        found = tokens.clone()
        registers = list(place.layout.registers)
        noise = torch.randn(found[:, registers].shape, generator=torch.Generator().manual_seed(1))
        found[:, registers] += self.size * noise.to(found)
        return found


@torch.no_grad()
def _changed_by_registers(backbone: Backbone, images: Tensor, layout: TokenLayout) -> float | None:
    """Whether what the module returns changes with the registers' last state; None if it returns nothing but all tokens."""
    images = images.to(backbone.device, backbone.dtype)
    last = backbone.trace(images, Capture(hidden=(-1,))).hidden(-1)
    edit = Edit("block", backbone.depth - 1, Disturb(float(last.abs().amax())))
    edited = backbone.edited([edit], "registers disturbed").module
    whole, changed = 0, 0.0
    for one, other in zip(_tensors(backbone.original(images)), _tensors(edited(images)), strict=True):
        if one.ndim == 3 and one.shape[1] == layout.length:
            kept = [index for index in range(layout.length) if index not in layout.registers]
            one, other = one[:, kept], other[:, kept]
        else:
            whole += 1
        changed = max(changed, float((one - other).abs().amax() > FAR * one.abs().amax()))
    return changed if whole or changed else None


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of an output: itself, the members of a tuple, or those of an output of transformers."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from (each for each in output.values() if isinstance(each, Tensor))
    elif isinstance(output, (tuple, list)):
        yield from (each for each in output if isinstance(each, Tensor))


def _order(layout: TokenLayout) -> list[float]:
    """Return the roles of the sequence as runs: [role, how many, ...]."""
    roles = [0] * layout.length
    for name, members in (("cls", layout.cls), ("register", layout.registers), ("other", layout.other)):
        for index in members:
            roles[index] = ROLES.index(name)
    ends = [0, *(place for place, (a, b) in enumerate(pairwise(roles), start=1) if a != b), len(roles)]
    return [float(value) for start, end in pairwise(ends) for value in (roles[start], end - start)]
