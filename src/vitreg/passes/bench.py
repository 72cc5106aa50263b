"""`Bench`: one model, one set of data, and how the model is run over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vitreg.backbones import Backbone
from vitreg.data.sets.example import TrainingSet
from vitreg.data.sets.sides import Metric, Sides, open_sides, open_test
from vitreg.data.views.transforms import Policy, Preprocess
from vitreg.machine.runtime import Processes


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
