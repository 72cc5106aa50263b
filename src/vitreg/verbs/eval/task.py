"""The interface of a task of `vitreg eval`: settings as a frozen dataclass, `run(bench)` returns an `Outcome`.

A task returns what it measured and its protocol; it writes no files and prints nothing. `vitreg.passes.bench.Bench` holds
the model, the data and how the model is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from vitreg.passes.bench import Bench
from vitreg.records import Skipped
from vitreg.report.sheets.sheet import Sheet
from vitreg.results import Table


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a task; see `EvalResult` for the fields.

    Args:
        trials: number of independent trials of each metric that is a percentage of right answers.
        intervals: 95 % intervals of other metrics.
        answers_either_way: a number that its control equals is an answer too, and no reason for a warning.
        units: units by a pattern of metric names, such as {"*_distance": "patches"}; percent for all others.
    """

    headline: str
    metrics: Mapping[str, float]
    controls: Mapping[str, float]
    counts: Mapping[str, int]
    protocol: Mapping[str, Any]
    trials: Mapping[str, int] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    answers_either_way: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    larger_is_better: bool = True
    classes: int | None = None
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    """Sheets of pictures, by file name."""


@runtime_checkable
class Task(Protocol):
    """A frozen, keyword-only dataclass whose fields are the flags of the command line, each with a docstring."""

    def run(self, bench: Bench) -> Outcome:
        """Measure."""
        ...
