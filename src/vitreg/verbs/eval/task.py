"""What a task of `vitreg eval` is: settings as a frozen dataclass, `run(bench)` gives an `Outcome`.

A task says what it measured and how; it writes no files and prints nothing. `vitreg.passes.bench.Bench` holds the model
and how it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vitreg.passes.bench import Bench
from vitreg.records import Skipped
from vitreg.report.sheets.sheet import Sheet
from vitreg.results import Table


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a task found; see `EvalResult` for the fields.

    Args:
        trials: of a metric that is the share of right answers, in percent, how many independent ones there were.
        units: of metrics by a pattern of their name, such as {"*_distance": "patches"}; percent where none fits.
    """

    headline: str
    metrics: Mapping[str, float]
    controls: Mapping[str, float]
    counts: Mapping[str, int]
    protocol: Mapping[str, Any]
    trials: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    larger_is_better: bool = True
    classes: int | None = None
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    """Pictures of what was found, by the name of their file."""


class Task(Protocol):
    """A frozen, keyword-only dataclass whose fields are the flags of the command line, each with a docstring."""

    def run(self, bench: Bench) -> Outcome:
        """Measure."""
        ...
