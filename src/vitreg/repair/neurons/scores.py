"""MLP neurons that write outliers: where they may be, and how they are ranked in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture
from vitreg.errors import UserError
from vitreg.repair.outliers import Outliers, patch_norms

Neuron = tuple[int, int]  # block, hidden unit of its MLP
DEEP, EARLIEST, EARLIEST_OF_SHALLOW = 12, 3, 2


def candidates(outliers: Outliers, depth: int, first: int | None = None) -> range:
    """Return the blocks whose neurons may write the outliers: from the fourth to the one where the largest norm jumps.

    Neurons of the first blocks are left alone; moving one costs accuracy.

    Args:
        first: the first of these blocks, where the usual one is not meant.
    Raises:
        UserError: if the outliers are there before any of these blocks has run.
    """
    if first is None:
        first = EARLIEST if depth >= DEEP else min(EARLIEST_OF_SHALLOW, depth - 1)
    last = outliers.onset
    if outliers.record.side == "high" and not outliers.record.forced:
        last = max(last, int(np.argmax(np.diff(outliers.largest, prepend=1.0))))
    if last < first:
        raise UserError(
            f"the outliers are there after block {last} already, and neurons of the first {first} blocks are left alone "
            "(--first-block 0 moves them too); position-rows and denoise repair what comes with the position."
        )
    return range(first, last + 1)


@dataclass
class Activations:
    """Sums of the activations of one block's hidden units [H], over outliers and over other patches."""

    size: Tensor  # of |a| over outliers
    outliers: Tensor  # of a over outliers
    normal: Tensor  # of a over other patches


def scores(
    backbone: Backbone, batches: Iterable[Tensor], outliers: Outliers, blocks: Sequence[int], score: str
) -> dict[int, Float[Tensor, "H"]]:
    """Score the hidden units of some blocks in one forward pass.

        contrast    |mean over outliers of a - mean over other patches of a| * norm of the unit's outgoing weights
        activation  mean over outliers of |a|

    Returns:
        {block: scores [H], float64}.
    Raises:
        UserError: if the model's MLPs are not known, or these images have no outlier.
    """
    anatomy = backbone.anatomy
    refuse_unknown_mlp(backbone)
    sums: dict[int, Activations] = {}
    counts = [0, 0]
    for pixels in batches:
        trace = backbone.trace(pixels, Capture(mlp=blocks, norms=[outliers.onset]))
        beyond = outliers.beyond(patch_norms(trace, outliers.onset)).flatten()
        there = trace.layout_after(outliers.onset).present.to(beyond.device).repeat(len(pixels))
        counts = [counts[0] + int(beyond.sum()), counts[1] + int((there & ~beyond).sum())]
        for block in blocks:
            hidden = trace.layout_before(block).take(trace.mlp(block)).flatten(0, 1)
            own = hidden[beyond].double()
            total = (
                hidden[there].sum(0, dtype=torch.float64)
                if not bool(there.all())
                else hidden.sum(0, dtype=torch.float64)
            )
            found = Activations(own.abs().sum(0), own.sum(0), total - own.sum(0))
            before = sums.get(block)
            sums[block] = found if before is None else Activations(
                before.size + found.size, before.outliers + found.outliers, before.normal + found.normal
            )  # fmt: skip
    if not counts[0]:
        raise UserError("none of these images has an outlier, so no neuron can be found; take more images.")
    result = {}
    for block, each in sums.items():
        if score == "activation":
            result[block] = each.size / counts[0]
            continue
        outgoing = outgoing_norms(anatomy.mlp[block], len(each.size))
        result[block] = (each.outliers / counts[0] - each.normal / max(counts[1], 1)).abs() * outgoing
    return result


def refuse_unknown_mlp(backbone: Backbone) -> None:
    """Raise UserError for a model whose MLPs are not known."""
    if not backbone.anatomy.mlp:
        raise UserError(
            f"the MLPs of {backbone.spec} are not recognised, so their neurons cannot be edited; substitute, clip-norm and "
            "mask-keys need none."
        )


def ranked(scored: Mapping[int, Tensor]) -> list[Neuron]:
    """Return (block, unit) of all scored units, the highest score first; ties by block and unit."""
    every = [
        (-float(value), block, unit) for block, values in scored.items() for unit, value in enumerate(values.tolist())
    ]
    return [(block, unit) for _, block, unit in sorted(every)]


def named(order: Sequence[Neuron]) -> dict[str, Any]:
    """Return neurons as a record keeps them: units by block, and all of them, the best first."""
    blocks = sorted({block for block, _ in order})
    return {
        "neurons": {str(block): [unit for own, unit in order if own == block] for block in blocks},
        "order": [list(neuron) for neuron in order],
    }


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Return values on the device of others; the copy does not make the host wait."""
    return values.to(like.device, non_blocking=True)


def hidden_units(backbone: Backbone) -> list[int]:
    """Return the number of hidden units of every block's MLP."""
    width = backbone.anatomy.width
    shapes = [_weight(each).shape for each in backbone.anatomy.mlp]
    return [shape[1] if shape[0] == width else shape[0] for shape in shapes]


def outgoing_norms(projection: nn.Module, units: int) -> Float[Tensor, "H"]:
    """Return the norm of what each hidden unit writes, float64."""
    weight = _weight(projection).detach().double()
    return weight.norm(dim=0 if weight.shape[1] == units else 1)


def _weight(projection: nn.Module) -> Tensor:
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight
