"""What an experiment is: the paper's numbers as data, how to measure ours, which claims follow, and how the figure is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitreg.experiments.lacking import Need
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import Trained
from vitreg.records.reproduction import PAPER, Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

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
        self,
        subject: str,
        held: bool | None,
        reason: str,
        value: float | None = None,
        interval: tuple[float | None, float | None] = (None, None),
    ) -> Claim:
        """Return the claim with what became of it.

        Args:
            held: None if it cannot be tested here.
            reason: the numbers, or what stands in the way.
        """
        said = "not testable here" if held is None else "held" if held else "not held"
        low, high = interval
        return Claim(
            id=self.id, subject=subject, says=self.says, criterion=self.criterion, outcome=said, reason=reason,
            paper=self.paper, value=value, low=low, high=high, by=self.by,
        )  # fmt: skip

    def of_each(self, measured: Sequence[Measured], judge: Callable[[Measured], Claim]) -> list[Claim]:
        """Judge every subject; one without numbers is not testable, for the reason that it has none."""
        return [self.outcome(each.subject, None, each.failed) if each.failed else judge(each) for each in measured]
