"""What a task of `vitreg eval` is: settings as a frozen dataclass, `run(bench)` gives an `Outcome`.

A task says what it measured and how; it writes no files and prints nothing. `Bench` holds the model and how it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vitreg.backbones import Backbone
from vitreg.data.example import TrainingSet
from vitreg.data.sides import Metric, Sides, open_sides, open_test
from vitreg.data.transforms import Policy, Preprocess
from vitreg.records import Skipped
from vitreg.report.sheets import Sheet
from vitreg.results import Table
from vitreg.runtime import Processes


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One model, one set of data, and how they are run.

    Args:
        data: what DATA was on the command line: a folder, a name, an annotation file; each task says what it takes.
        features: folder where extracted features are kept and found again.
        size: of the images, (height, width); the model's own if None.
        limit: use at most this many images of each side.
        download: let sets known by name fetch what is missing.
    """

    backbone: Backbone
    data: str
    features: Path
    group: Processes = field(default_factory=Processes)
    size: tuple[int, int] | None = None
    policy: Policy = "resize"
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    seed: int = 0
    download: bool = False
    quiet: bool = True
    noted: list[str] = field(default_factory=list)
    """What was left out or went otherwise than expected, a sentence each: it stands in the record of every task."""

    def sides(self) -> Sides:
        """Open the sides of the data. Raises UserError as `open_sides` does."""
        found = open_sides(self.data, limit=self.limit, download=self.download)
        for side in (found.train, found.val, found.test):
            self.noted.extend(() if side is None else side.notes)
        return found

    def judged(self, *, captions: bool = False) -> tuple[TrainingSet, Metric]:
        """Open what is judged on, for tasks that learn nothing. Raises UserError as `open_test` does."""
        found, metric = open_test(self.data, limit=self.limit, captions=captions, download=self.download)
        self.noted.extend(found.notes)
        return found, metric

    def preprocess(self, *, resize_ratio: float | None = None) -> Preprocess:
        """Return how a picture becomes the model's input, at the size asked for.

        Args:
            resize_ratio: short side of the resized picture over the side of the crop, such as 256 / 224 for DINOv2's
                kNN or 1 for its transfer sets; the model's own if None.
        Raises:
            UserError: for a model that photographs cannot be prepared for.
        """
        found = self.backbone.prepared(self.size)
        if resize_ratio is None:
            return found
        short = min(found.size)
        if found.size[0] != found.size[1]:
            return found
        return Preprocess(
            size=found.size,
            resize=round(short * resize_ratio),
            mean=found.mean,
            std=found.std,
            interpolation="bicubic",
        )


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
