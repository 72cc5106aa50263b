"""What the answers of a design are made of, and how changes and means are put in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitreg.experiments.lab.design import words
from vitreg.experiments.lab.statistics.contrasts import Contrast
from vitreg.experiments.lab.statistics.effects import counts
from vitreg.quantities import number
from vitreg.records.lab import DesignRun, Effect, LabCell

NO_OP, BROADCAST = 0.2, 0.5
"""Norm of the values over the mean of all: at most, at least; as `vitreg.analysis.sinks` has it for single heads."""


@dataclass(frozen=True)
class Found:
    """What answers are made of.

    Args:
        base: index of the cell without changes.
        rounding: steps between two looks.
    """

    cells: Sequence[LabCell]
    effects: Sequence[Effect]
    runs: Sequence[DesignRun]
    base: int | None
    rounding: float

    def of(self, cell: int | None) -> list[DesignRun]:
        """Return the runs of a cell that are past their onset."""
        return [run for run in self.runs if run.cell == cell and counts(run)]

    def solved(self, cell: int) -> list[DesignRun]:
        """Return those of them that solved the task."""
        return [run for run in self.of(cell) if run.solved is not None]

    def changes(self) -> list[Effect]:
        """Return the rows that compare one cell with the base."""
        return [each for each in self.effects if not each.average and each.cells[1] == [self.base]]


def changed(each: Effect) -> str:
    """Return a change in words, such as "gate on"."""
    return words(each.factor, each.level)


def interval(mean: Contrast) -> str:
    """Return a mean with its interval, which no share or ratio has below 0."""
    return number(mean.value) + (
        "" if mean.low is None or mean.high is None else f" ({number(max(mean.low, 0.0))} to {number(mean.high)})"
    )
