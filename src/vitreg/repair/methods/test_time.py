"""Test-time registers (Jiang et al. 2025): MLP neurons that write outliers write to added tokens instead.

A neuron's activation on the patches is replaced by 0, and the added token gets the value of largest magnitude, with its
sign. The class token keeps its own. The contrast score, the search for the number of neurons and the dealing of neurons
to several tokens are vitreg's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.edits import Edit, Place
from vitreg.errors import UserError
from vitreg.repair.effect import Effects
from vitreg.repair.method import Fitted, Method
from vitreg.repair.outliers import NothingToRepairError, Outliers, patch_norms
from vitreg.repair.record import EffectRecord
from vitreg.repair.settings import TestTimeSettings
from vitreg.repair.subject import Subject
from vitreg.repair.tokens import AddTokens, DropTokens

Neurons = dict[int, list[int]]  # block -> hidden units of its MLP
FIRST, SHARE_OF_UNITS = 5, 0.01  # the search begins with 5 neurons and ends at 1 % of all hidden units
CLEAN = 0.001  # the search ends once fewer patches than this are outliers in every block
SAME = 0.05  # two ratios of norms count as equal within 5 %
DEEP, EARLIEST, EARLIEST_OF_SHALLOW = 12, 3, 2


@dataclass(frozen=True)
class MoveToTokens:
    """Neurons fire in the added tokens instead of in the patches.

    Args:
        neurons: hidden units [K] of this block's MLP.
        owners: [K], which of the added tokens each belongs to.
        count: how many tokens were added, directly before the patches.
    """

    neurons: Int64[Tensor, "K"]
    owners: Int64[Tensor, "K"]
    count: int

    def __call__(self, hidden: Float[Tensor, "B N H"], place: Place) -> Float[Tensor, "B N H"]:
        """Move the activations."""
        layout, neurons = place.layout, self.neurons.to(hidden.device)
        patches = layout.patch_index[layout.present].to(hidden.device)
        fired = hidden[:, patches[:, None], neurons]  # [B, P, K]
        largest = fired.gather(1, fired.abs().argmax(1, keepdim=True))[:, 0]  # [B, K]
        moved = hidden.clone()
        moved[:, patches[:, None], neurons] = 0
        tokens = torch.arange(layout.first_patch - self.count, layout.first_patch, device=hidden.device)
        moved[:, tokens[:, None], neurons] = 0
        moved[:, tokens[self.owners.to(hidden.device)], neurons] = largest
        return moved


def candidates(outliers: Outliers, depth: int) -> range:
    """Return the blocks whose neurons may write the outliers: from the fourth to the one where the largest norm jumps.

    Neurons of the first blocks are left alone; moving one costs accuracy.

    Raises:
        UserError: if the outliers are there before any of these blocks has run.
    """
    first = EARLIEST if depth >= DEEP else min(EARLIEST_OF_SHALLOW, depth - 1)
    last = outliers.onset
    if outliers.record.side == "high" and not outliers.record.forced:
        last = max(last, int(np.argmax(np.diff(outliers.largest, prepend=1.0))))
    if last < first:
        raise UserError(
            f"the outliers are there after block {last} already, and neurons of the first {first} blocks are left alone; "
            "position-rows and denoise repair what comes with the position."
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
    if not anatomy.mlp:
        raise UserError(
            f"the MLPs of {backbone.spec} are not recognised, so their neurons cannot be edited; substitute, clip-norm and "
            "mask-keys need none."
        )
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


def ranked(scored: Mapping[int, Tensor]) -> list[tuple[int, int]]:
    """Return (block, unit) of all scored units, the highest score first; ties by block and unit."""
    every = [
        (-float(value), block, unit) for block, values in scored.items() for unit, value in enumerate(values.tolist())
    ]
    return [(block, unit) for _, block, unit in sorted(every)]


def edits(found: Fitted) -> list[Edit]:
    """Add the tokens before block 0, and move the neurons of each block."""
    count = len(found.tensors["tokens"])
    neurons: Neurons = {int(block): list(units) for block, units in found.details["neurons"].items()}
    order = {tuple(pair): index for index, pair in enumerate(found.details["order"])}
    made = [Edit("input", None, AddTokens(found.tensors["tokens"]))]
    for block, units in neurons.items():
        owners = torch.tensor([order[block, unit] % count for unit in units])
        made.append(Edit("mlp", block, MoveToTokens(torch.tensor(units), owners, count)))
    return made


def leaving(found: Fitted) -> list[Edit]:
    """Take the tokens out after the last block."""
    return [Edit("block", -1, DropTokens(len(found.tensors["tokens"])))]


def fitted(order: Sequence[tuple[int, int]], tokens: Tensor, **details: Any) -> Fitted:
    """Return the repair that moves these neurons, in the order of their rank."""
    blocks = sorted({block for block, _ in order})
    neurons = {str(block): [unit for own, unit in order if own == block] for block in blocks}
    return Fitted({"tokens": tokens}, {"neurons": neurons, "order": [list(pair) for pair in order], **details})


def repaired(backbone: Backbone, found: Fitted) -> Backbone:
    """Return the model with these neurons moved."""
    return backbone.edited(edits(found), "test-time", leaving=leaving(found))


@dataclass
class _Search:
    """The search for the number of neurons: doubled until the outliers are gone, then halved between."""

    subject: Subject
    settings: TestTimeSettings
    tokens: Tensor
    order: list[tuple[int, int]]
    kept: list[tuple[int, int]]  # of earlier rounds
    effects: Effects
    tried: dict[int, EffectRecord] = field(default_factory=dict)

    def effect(self, k: int) -> EffectRecord:
        """Return the effect of the first k neurons, with those of earlier rounds."""
        if k not in self.tried:
            found = fitted([*self.kept, *self.order[:k]], self.tokens)
            self.tried[k] = self.effects.of(repaired(self.subject.backbone, found))
        return self.tried[k]

    def run(self) -> int:
        """Return how many neurons to move.

        Their number doubles until the outliers are gone and the norms of those tokens no longer change; the smallest
        number that does the same is then found by bisection.
        """
        most = min(max(FIRST, int(SHARE_OF_UNITS * sum(hidden_units(self.subject.backbone)))), len(self.order))
        failed, k = 0, min(FIRST, most)
        while not self._settled(k, wanted := min(2 * k, most)):
            if k == most or self.effect(wanted).cls_change > self.settings.max_damage:
                return self._least_bad()
            failed, k = k, wanted
        goal = self.effect(wanted).ratio
        while k - failed > 1:
            middle = (failed + k) // 2
            failed, k = (failed, middle) if self._reaches(middle, goal) else (middle, k)
        return k

    def _settled(self, k: int, more: int) -> bool:
        """Whether k neurons remove the outliers, and `more` of them change nothing further."""
        return self.effect(k).worst_share < CLEAN and self._reaches(k, self.effect(more).ratio)

    def _reaches(self, k: int, goal: float | None) -> bool:
        """Whether k neurons remove the outliers and bring the norms of those tokens to within `SAME` of the goal."""
        effect = self.effect(k)
        if effect.worst_share >= CLEAN or effect.cls_change > self.settings.max_damage:
            return False
        return effect.ratio is None or goal is None or abs(np.log(effect.ratio / goal)) < SAME

    def _least_bad(self) -> int:
        """The number, of those tried, that leaves the fewest outliers within the damage allowed."""
        within = [n for n, effect in self.tried.items() if effect.cls_change <= self.settings.max_damage]
        return min(within, key=lambda n: (self.tried[n].worst_share, n), default=min(self.tried))


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


def fit(subject: Subject, settings: TestTimeSettings) -> Fitted:
    """Find the neurons that write the outliers, and how many of them to move."""
    base, outliers = subject.backbone, subject.outliers
    if not base.anatomy.resizable:
        raise UserError(
            f"{base.spec} takes no added tokens: its position bias is tied to its grid; use attention-bias."
        )
    tokens = _tokens(subject, settings)
    effects = Effects(subject, outliers, "tune")
    kept: list[tuple[int, int]] = []
    rounds: list[dict[str, Any]] = []
    for number in range(settings.rounds):
        model = repaired(base, fitted(kept, tokens)) if kept else base
        try:
            now = subject.with_backbone(model).outliers if kept else outliers
            blocks = candidates(now, base.depth)
        except (NothingToRepairError, UserError):
            if not number:
                raise
            break
        order = [
            pair for pair in ranked(scores(model, subject.batches(), now, blocks, settings.score)) if pair not in kept
        ]
        search = _Search(subject, settings, tokens, order, kept, effects)
        k = settings.neurons or search.run()
        chosen = order[:k]
        if subject.random:
            drawn = np.random.default_rng(subject.seed).permutation(len(order) - k)[:k]
            chosen = [order[k + int(index)] for index in drawn]
        steps = [
            {"neurons": n, "share": e.worst_share, "cls_change": e.cls_change} for n, e in sorted(search.tried.items())
        ]
        rounds.append({"neurons": k, "blocks": list(blocks), "tried": steps})
        better = not rounds[:-1] or search.effect(k).worst_share < effects.of(model).worst_share
        if not better:
            break
        kept += chosen
    return fitted(kept, tokens, rounds=rounds)


def _tokens(subject: Subject, settings: TestTimeSettings) -> Float[Tensor, "R D"]:
    width = subject.backbone.anatomy.width
    if settings.token == "zero":
        return torch.zeros(settings.registers, width)
    total, count = torch.zeros(width, dtype=torch.float64), 0
    for pixels in subject.batches():
        trace = subject.backbone.trace(pixels, Capture(input=True))
        patches = trace.layout_before(0).take(trace.input).float()
        total += patches.mean(1).sum(0).double().cpu()
        count += len(pixels)
    return (total / count).float().expand(settings.registers, -1).contiguous()


METHOD = Method(name="test-time", settings=TestTimeSettings, fit=fit, edits=edits, leaving=leaving)
