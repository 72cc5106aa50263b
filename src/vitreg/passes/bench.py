"""`Bench`: one model, one set of data, and how the model is run over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vitreg.backbones import Backbone
from vitreg.data.batches.training import EvaluationLoader, evaluation_loader
from vitreg.data.sets.example import TrainingSet
from vitreg.data.sets.sides import Metric, Sides, open_sides, open_test
from vitreg.data.views.transforms import Policy, Preprocess
from vitreg.machine.runtime import Processes
from vitreg.passes.view import View, view_of


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One model, one set of data, and how they are run.

    Args:
        data: DATA as on the command line: a folder, a name or an annotation file; each task says which it takes.
        features: folder of stored features, reused by later runs.
        size: (height, width) of the images; the model's native size if None.
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
    listing: str = ""
    """Hash of the files of the data before anything was measured, by which a record is found complete later."""
    noted: list[str] = field(default_factory=list)
    """One sentence for each thing left out or unexpected; every task's record holds them."""

    def sides(self) -> Sides:
        """Open the sides of the data. Raises UserError as `open_sides` does."""
        found = open_sides(self.data, limit=self.limit, download=self.download)
        for side in (found.train, found.val, found.test):
            self.noted.extend(() if side is None else side.notes)
        return found

    def judged(self, *, captions: bool = False) -> tuple[TrainingSet, Metric]:
        """Open the test side alone, for tasks without training. Raises UserError as `open_test` does."""
        found, metric = open_test(self.data, limit=self.limit, captions=captions, download=self.download)
        self.noted.extend(found.notes)
        return found, metric

    def view(self, *, resize_ratio: float | None = None, preprocess: Preprocess | None = None) -> View:
        """Return the model's view of pictures at `size`.

        Args:
            resize_ratio: short side of the resized picture / side of the crop, such as 256 / 224 for DINOv2's kNN or 1
                for its transfer sets; the model's own ratio if None, or where the input is not square.
            preprocess: replaces the model's preprocessing and `resize_ratio`.
        Raises:
            UserError: for a model that photographs cannot be prepared for.
        """
        if preprocess is None:
            preprocess = self.backbone.prepared(self.size)
            if resize_ratio is not None and preprocess.size[0] == preprocess.size[1]:
                preprocess = Preprocess(
                    size=preprocess.size,
                    resize=round(preprocess.size[0] * resize_ratio),
                    mean=preprocess.mean,
                    std=preprocess.std,
                    interpolation="bicubic",
                )
        return view_of(self.backbone, policy=self.policy, batch=self.batch_size, preprocess=preprocess)

    def loader(self, data: TrainingSet, view: View) -> EvaluationLoader:
        """Return this process's share of a set in batches, in order, prepared for the model."""
        return evaluation_loader(
            data,
            view.pictures,
            batch=view.batch,
            rank=self.group.rank,
            world=self.group.world,
            workers=self.workers,
        )
