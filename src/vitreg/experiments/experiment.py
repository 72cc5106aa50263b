"""What an experiment is: the paper's numbers as data, how to measure ours, which claims follow, and how the figure is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitreg.experiments.lacking import Need
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import Trained
from vitreg.quantities import number
from vitreg.records.reproduction import PAPER, Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

Ends = tuple[float, float]
"""Of a 95 % interval."""
Drawings = Mapping[str, tuple[str, Callable[[], Any]]]
"""Names of figures without suffix; of each a caption, and a function that returns it (matplotlib)."""


def nothing(scale: Scale) -> tuple[Trained, ...]:
    """Train no model."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One figure or table of the paper, or a claim of later work about it.

    Args:
        id: such as fig3; label: as the paper names it.
        title: what it shows, a few words.
        published: the paper's numbers. protocol: how it came to them. ours: how this project measures.
        needs: data that `measure` reads; nothing for what follows from formulas.
        uses: data of which it reads what there are.
        subjects: what is measured one by one: models unless named here.
        looks: at which models beside those it trains: the scale's or the user's, the user's only, or none.
        trains: the models that are trained for it, of one seed. Where the user names models, only an experiment that looks at
            none trains any.
        measure: one subject -> its numbers. Verbs are called through the setting, so no other is repeated.
        claims: numbers of all subjects -> outcomes. It sees nothing but these, so it can be asked again without measuring.
        draw: the record and the setting's folder of jobs -> figures.
    """

    id: str
    label: str
    title: str
    published: Mapping[str, Any]
    protocol: str
    ours: str
    needs: tuple[Need, ...] = ()
    uses: tuple[Need, ...] = ()
    subjects: tuple[str, ...] = ()
    looks: Literal["models", "given", "none"] = "models"
    trains: Callable[[Scale], tuple[Trained, ...]] = nothing
    measure: Callable[[Setting, str], Measured]
    claims: Callable[[Sequence[Measured]], list[Claim]]
    draw: Callable[[ExperimentRecord, Path], Drawings]


@dataclass(frozen=True, kw_only=True)
class Says:
    """A claim of the paper, or of later work, before it meets numbers.

    Args:
        id: short. says: the claim. criterion: what must be true here. paper: the published number. by: who made it.
    """

    id: str
    says: str
    criterion: str
    paper: str = ""
    by: str = PAPER

    def outcome(
        self, subject: str, held: bool | None, reason: str, value: float | None = None,
        interval: tuple[float | None, float | None] = (None, None), **more: Any,
    ) -> Claim:  # fmt: skip
        """Return the claim with what became of it.

        Args:
            held: None if it cannot be tested here.
            reason: the numbers, or what stands in the way.
            more: fields of `Claim`.
        """
        said = "not testable here" if held is None else "held" if held else "not held"
        low, high = interval
        return Claim(
            id=self.id, subject=subject, says=self.says, criterion=self.criterion, outcome=said, reason=reason,
            paper=self.paper, value=value, low=low, high=high, by=self.by, **more,
        )  # fmt: skip

    def untestable(self, subject: str, reason: str, value: float | None = None) -> Claim:
        """Return the claim as not testable here, for a reason."""
        return self.outcome(subject, None, reason, value)

    def decided(
        self, subject: str, value: float, ends: Ends | None, words: str, *, above: float | None = None, below: float | None = None,
        write: Callable[[float], str] = number, of: str = "images",
    ) -> Claim:  # fmt: skip
        """Judge a number by its 95 % interval: the rule of all claims.

        Held if the whole interval lies on the claim's side of the criterion, not held if none of it does, and else not
        testable: the sample does not tell. An end on the criterion itself does not lie on the claim's side: equal is not more.

        Args:
            ends: of the interval; None where the sample is too small for one.
            words: the numbers; a full stop is added.
            above, below: the criterion. Both: the claim's side is between them.
            write: a number in words. of: what was sampled.
        """
        if ends is None:
            return self.outcome(
                subject,
                None,
                f"{words}. There is no interval over {of}: too few, or an earlier record.",
                value,
                above=above,
                below=below,
            )
        low, high = ends
        lower, upper = -math.inf if above is None else above, math.inf if below is None else below
        held = True if lower < low and high < upper else False if high <= lower or low >= upper else None
        if held is None:
            reached = next(bound for bound in (above, below) if bound is not None and low <= bound <= high)
            words = f"{words}. Too few {of}: the interval {write(low)} to {write(high)} holds the criterion, {write(reached)}"
        return self.outcome(subject, held, f"{words}.", value, ends, above=above, below=below)

    def exactly(
        self, subject: str, held: bool, words: str, value: float | None = None, *, above: float | None = None, below: float | None = None
    ) -> Claim:  # fmt: skip
        """Judge a number that has no interval, because nothing was sampled: a closed form, or a change that is made and seen."""
        return self.outcome(subject, held, words, value, above=above, below=below, exact=True)

    def together(self, parts: Sequence[Claim]) -> Claim:
        """Judge a claim of several numbers: not held if one is not, held if all are. The interval is that of the one that decides."""
        order = ("not held", "not testable here", "held")
        worst = min(parts, key=lambda part: order.index(part.outcome))
        return worst.model_copy(update={"reason": " ".join(part.reason for part in parts)})

    def of_each(self, measured: Sequence[Measured], judge: Callable[[Measured], Claim]) -> list[Claim]:
        """Judge every subject; one without numbers is not testable, for the reason that it has none."""
        return [self.outcome(each.subject, None, each.failed) if each.failed else judge(each) for each in measured]
