"""How many of the ranked neurons a repair edits: the fewest that remove the outliers of images not ranked on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.quantities import count, number, percent
from vitreg.repair.effect import Effects
from vitreg.repair.neurons.listed import by_lot, others, read_list
from vitreg.repair.neurons.scores import Neuron, candidates, hidden_units, ranked, refuse_unknown_mlp, scores
from vitreg.repair.outliers import NothingToRepairError
from vitreg.repair.record import EffectRecord
from vitreg.repair.settings import TestTimeSettings
from vitreg.repair.subject import Subject

FIRST, SHARE_OF_UNITS = 5, 0.01  # the search begins with 5 neurons and ends at 1 % of all hidden units
# Outliers are gone if less than .1 % of the patches are some in any block, or less than 5 % of those there were.
CLEAN, LEFT = 0.001, 0.05
FEWEST = 3  # outliers among the images to choose with: with fewer, any number of neurons would do
# A ratio of norms is as near to 1 as another if it is less than 5 % of how far outliers stood out farther, in logarithms.
AS_NEAR = 0.05


Repaired = Callable[[Sequence[Neuron]], Backbone]


@dataclass(frozen=True)
class Chosen:
    """Neurons, the best first, and how they were found: a record of each round, as JSON values; and sentences about it."""

    order: tuple[Neuron, ...]
    rounds: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def choose_neurons(subject: Subject, settings: TestTimeSettings, repaired: Repaired) -> Chosen:
    """Find the neurons that write the outliers, and how many of them to edit.

    Args:
        repaired: neurons, the best first -> the model with these edited.
    Raises:
        UserError: if the outliers are no neurons' work, the MLPs are not known, the neurons listed are another model's, or
            even one neuron does too much damage.
    """
    base, outliers = subject.backbone, subject.outliers
    if settings.neurons_from is not None:
        return _listed(subject, settings.neurons_from)
    effects = Effects(subject, outliers, "tune")
    if not settings.neurons and effects.outliers < FEWEST:
        raise UserError(
            f"there {'is' if effects.outliers == 1 else 'are'} {count(effects.outliers, 'outlier')} in the "
            f"{count(subject.images.count('tune'), 'image')} to choose with, too few to tell how many neurons write them; take more "
            "images, or give --neurons."
        )
    kept: list[Neuron] = []
    rounds: list[dict[str, Any]] = []
    notes: list[str] = []
    for _ in range(settings.rounds):
        model = repaired(kept) if kept else base
        try:
            now = subject.with_backbone(model).outliers if kept else outliers
            blocks = candidates(now, base.depth, settings.first_block)
        except (NothingToRepairError, UserError):
            if not rounds:
                raise
            break
        scored = scores(model, subject.batches(), now, blocks, settings.score)
        order = [neuron for neuron in ranked(scored) if neuron not in kept]
        by_rank = [float(scored[block][unit]) for block, unit in order]
        most = max(FIRST, int(SHARE_OF_UNITS * sum(hidden_units(base))))
        gone = max(CLEAN, LEFT * outliers.record.share)
        search = _Search(
            settings.max_damage, outliers.record.ratio, gone, most, order, by_rank, kept, repaired, effects
        )
        k = settings.neurons or search.run()
        steps = [
            {"neurons": n, "share": e.worst_share, "cls_change": e.cls_change} for n, e in sorted(search.tried.items())
        ]
        rounds.append({"neurons": k, "blocks": list(blocks), "tried": steps})
        notes = [] if settings.neurons or subject.random else _stopped(search, k)
        if len(rounds) > 1 and search.effect(k).worst_share >= effects.of(model).worst_share:
            break
        kept += _by_lot(order, k, subject.seed) if subject.random else order[:k]
    return Chosen(tuple(kept), tuple(rounds), tuple(notes))


def _stopped(search: _Search, k: int) -> list[str]:
    """Say that the limit of damage ended the search before the outliers were gone, and whether neurons are to blame."""
    left = search.effect(k).worst_share
    if left < search.gone or all(effect.cls_change <= search.max_damage for effect in search.tried.values()):
        return []
    note = (
        f"With {count(k, 'neuron')} edited {percent(left)} of the patches stay outliers; more of them move the class token further than "
        f"--max-damage {number(search.max_damage)}."
    )
    alone = search.effects.of(search.repaired(search.kept)).cls_change
    if alone <= search.max_damage / 2:
        return [note]
    # LayerNorm makes any token one of ordinary length, a nearly empty one too.
    return [note, f"What is added moves it by {number(alone)} without any neuron; --token mean adds an ordinary token."]


def _listed(subject: Subject, file: Path) -> Chosen:
    """Take the neurons of a list."""
    refuse_unknown_mlp(subject.backbone)
    found = read_list(file.expanduser(), subject.backbone)
    order = by_lot(found.order, subject.backbone, subject.seed) if subject.random else found.order
    note = others(found, subject.backbone)
    listed = {"neurons": len(order), "listed": found.source, "model": found.model}
    return Chosen(tuple(order), (listed,), (note,) if note else ())


def _by_lot(order: Sequence[Neuron], k: int, seed: int) -> list[Neuron]:
    """As many neurons of the same blocks, none of the best k."""
    drawn = np.random.default_rng(seed).permutation(len(order) - k)[:k]
    return [order[k + int(index)] for index in drawn]


@dataclass
class _Search:
    """The search for the number of neurons: doubled until the outliers are gone, then halved between."""

    max_damage: float
    stood_out: float  # the ratio of norms without the repair
    gone: float  # share of outliers below which they are
    most: int
    order: list[Neuron]
    scored: list[float]  # in this order
    kept: list[Neuron]  # of earlier rounds
    repaired: Repaired
    effects: Effects
    tried: dict[int, EffectRecord] = field(default_factory=dict)

    def effect(self, k: int) -> EffectRecord:
        """Return the effect of the first k neurons, with those of earlier rounds."""
        if k not in self.tried:
            self.tried[k] = self.effects.of(self.repaired([*self.kept, *self.order[:k]]))
        return self.tried[k]

    def run(self) -> int:
        """Return how many neurons to edit.

        Their number doubles until the outliers are gone and more neurons bring their norms no nearer to those of other
        patches, or the best of those tried is taken; the smallest number that is as near is then found by bisection.
        """
        most = min(self.most, len(self.order))
        k = min(FIRST, most)
        while not self._settled(k, wanted := min(2 * k, most)):
            if k == most or self.effect(wanted).cls_change > self.max_damage:
                self.effect(self._steepest(most))
                k = wanted = self._least_bad()
                break
            k = wanted
        return self._fewest(k, self.effect(wanted).ratio)

    def _steepest(self, most: int) -> int:
        """The number after which scores fall most steeply."""
        falls = [now / max(after, 1e-30) for now, after in pairwise(self.scored[: most + 1])]
        return 1 + int(np.argmax(falls)) if falls else most

    def _settled(self, k: int, more: int) -> bool:
        """Whether k neurons remove the outliers within the damage allowed, and `more` of them keep that up
        and bring the norms of those tokens no nearer to the others'."""
        harmless = self.effect(k).cls_change <= self.max_damage
        return harmless and self._clean(k) and self._clean(more) and self._as_near(k, self.effect(more).ratio)

    def _clean(self, k: int) -> bool:
        """Whether k neurons remove the outliers, and those tokens stand out on no side: some neurons alone can make
        high-norm outliers of low-norm ones, which no share counts."""
        return self.effect(k).worst_share < self.gone and not self._stands_out(k)

    def _stands_out(self, k: int) -> bool:
        """Whether norms of the outliers are still, in logarithms, half as far from those of other patches as they were."""
        return abs(np.log(self.effect(k).ratio or 1.0)) > abs(np.log(self.stood_out)) / 2

    def _as_near(self, k: int, goal: float | None) -> bool:
        """Whether k neurons bring the norms of the outliers as near to those of other patches as the goal, a ratio."""
        ratio, tolerance = self.effect(k).ratio, AS_NEAR * max(1.0, abs(np.log(self.stood_out)))
        return ratio is None or goal is None or abs(np.log(ratio)) < abs(np.log(goal)) + tolerance

    def _fewest(self, k: int, goal: float | None) -> int:
        """The smallest number up to k with norms as near: they tell it more surely than shares, which go up and down."""
        failed = max((n for n in self.tried if n < k and not self._as_near(n, goal)), default=0)
        fewest = min(n for n in self.tried if failed < n <= k)
        while fewest - failed > 1:
            middle = (failed + fewest) // 2
            failed, fewest = (failed, middle) if self._as_near(middle, goal) else (middle, fewest)
        worst = max(self.gone, self.effect(k).worst_share)
        suits = (n for n in self.tried if fewest <= n <= k and self.effect(n).cls_change <= self.max_damage)
        return min((n for n in suits if self.effect(n).worst_share <= worst), default=k)

    def _least_bad(self) -> int:
        """The number, of those tried within the damage allowed, that leaves the fewest outliers and the most usual norms;
        first, one after which those tokens no longer stand out."""

        def badness(k: int) -> tuple[bool, float, float, int]:
            effect = self.tried[k]
            return self._stands_out(k), max(effect.worst_share, self.gone), abs(np.log(effect.ratio or 1.0)), k

        while not (within := [n for n, effect in self.tried.items() if effect.cls_change <= self.max_damage]):
            fewer = min(self.tried) // 2
            if not fewer:
                raise UserError(
                    f"even one neuron moves the class token by {number(self.effect(1).cls_change)} (1 - cosine), more than "
                    f"--max-damage {number(self.max_damage)}; substitute moves no neuron, and --token mean adds an ordinary token."
                )
            self.effect(fewer)
        return min(within, key=badness)
