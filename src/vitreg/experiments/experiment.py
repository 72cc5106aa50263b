"""What an experiment is: the paper's numbers as data, how to measure ours, which claims follow, and how the figure is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

Need = Literal["images", "classes", "boxes"]
Drawings = Mapping[str, tuple[str, Callable[[], Any]]]
"""Names of figures without suffix; of each a caption, and a function that returns it (matplotlib)."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One figure or table of the paper.

    Args:
        id: such as fig3; label: as the paper names it.
        title: what it shows, a few words.
        published: the paper's numbers. protocol: how it came to them. ours: how this project measures.
        needs: data that `measure` reads; nothing for what follows from formulas.
        subjects: what is measured one by one: the models of the setting unless named here.
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
    subjects: tuple[str, ...] = ()
    measure: Callable[[Setting, str], Measured]
    claims: Callable[[Sequence[Measured]], list[Claim]]
    draw: Callable[[ExperimentRecord, Path], Drawings]


@dataclass(frozen=True, kw_only=True)
class Says:
    """A claim of the paper, before it meets numbers.

    Args:
        id: short. says: the claim. criterion: what must be true here. paper: the published number.
    """

    id: str
    says: str
    criterion: str
    paper: str = ""

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
            paper=self.paper, value=value, low=low, high=high,
        )  # fmt: skip

    def of_each(self, measured: Sequence[Measured], judge: Callable[[Measured], Claim]) -> list[Claim]:
        """Judge every subject; one without numbers is not testable, for the reason that it has none."""
        return [self.outcome(each.subject, None, each.failed) if each.failed else judge(each) for each in measured]
