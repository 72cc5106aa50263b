"""The sides of an evaluation set: for training a probe, for tuning it, and for testing it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vitreg.data.sets.catalog import CATALOG, Metric, find_named, folders, open_named
from vitreg.data.sets.datasets import open_training_set
from vitreg.data.sets.example import Portion, TrainingSet
from vitreg.data.sets.folders import VALIDATION, inside
from vitreg.data.sets.listed import MultiLabelSet
from vitreg.data.sets.settings import DataConfig
from vitreg.data.sources.archives import is_archive
from vitreg.data.sources.listing import TABLES
from vitreg.errors import UserError, nearest

__all__ = ["Metric", "Sides", "open_sides", "open_test"]


@dataclass(frozen=True, slots=True)
class Sides:
    """Sides with the same classes, and the metric that is customary on this set.

    Args:
        train, test: for learning and for scoring.
        metric: top-1, its mean over classes, or mean average precision (labels are then a matrix, see `multilabel`).
        val: the authors' validation side, to choose settings; None if there is none.
    """

    name: str
    train: TrainingSet
    test: TrainingSet
    metric: Metric = "top1"
    val: TrainingSet | None = None

    @property
    def multilabel(self) -> bool:
        """Whether images have several classes: `labels` of each side is then float32 [n, C] of 0 and 1, not int64 [n]."""
        return self.metric == "map"

    @property
    def ignored(self) -> Bool[np.ndarray, "n C"] | None:
        """Which labels of a multi-label test side are not scored (difficult objects of VOC); None for others."""
        return self.test.ignored if isinstance(self.test, MultiLabelSet) else None


def open_sides(data: str, *, limit: int | None = None, captions: bool = False, download: bool = False) -> Sides:
    """Open the sides of a folder, shards, a table, a set of torchvision or one of the catalogue (`cifar10:FOLDER`).

    Args:
        limit: use at most this many images of each side, spread evenly over it.
        captions: targets are captions instead of classes.
        download: let a named set fetch what is missing.
    Raises:
        UserError: if there is no such set, or it has one side only.
    """
    named = None if captions else find_named(data)
    if named is not None:
        _check(limit)
        opened = {side: _some(found, limit) for side, found in open_named(*named, download=download).items()}
        return Sides(data, opened["train"], opened["test"], named[0].metric, opened.get("val"))
    _refuse_misspelt(data)
    config = DataConfig(root=data, limit=limit, limit_val=limit, download=download)
    train = open_training_set(config, "train", captions=captions)
    found = {} if captions else folders(Path(data).expanduser())
    if "val" in found and train.classes is not None:
        both = [
            open_training_set(
                DataConfig(root=data, val=str(found[side]), kind="folder", limit_val=limit),
                "val",
                captions=False,
                classes=train.classes,
            )
            for side in ("test", "val")
        ]
        assert both[0] is not None
        return Sides(data, train, both[0], val=both[1])
    test = open_training_set(config, "val", captions=captions, classes=train.classes)
    if test is None:
        if is_archive(data):
            raise UserError(f"'{data}' is one side only; probes need two: name a folder of train-*.tar and val-*.tar.")
        if data.lower().endswith(TABLES):
            raise UserError(f"'{data}' has one side only; probes need two: add a column 'split' with train and val.")
        raise UserError(f"'{data}' has one side only; probes need train/ and val/ (or test/) inside it.")
    return Sides(data, train, test)


def open_test(
    data: str, *, limit: int | None = None, captions: bool = False, download: bool = False
) -> tuple[TrainingSet, Metric]:
    """Open the test side, or the only side of a set with one: for tasks that learn nothing.

    Raises:
        UserError: if there is no such set.
    """
    if captions or find_named(data) is None:
        _refuse_misspelt(data)
        root = data if captions else str(_only_side(Path(data).expanduser()) or data)
        config = DataConfig(root=root, limit=limit, limit_val=limit, download=download)
        judged = open_training_set(config, "val", captions=captions)
        if judged is None:
            return open_training_set(config, "train", captions=captions), "top1"
        if captions:
            return judged, "top1"
    sides = open_sides(data, limit=limit, captions=captions, download=download)
    return sides.test, sides.metric


def _only_side(root: Path) -> Path | None:
    """Return ROOT/test or ROOT/val if ROOT has neither a training side nor class folders."""
    there = {path.name.lower() for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    found = inside(str(root), ("test", *VALIDATION))
    return Path(found) if found and there <= set(VALIDATION) else None


def _check(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} leaves no image.")


def _some(data: TrainingSet, limit: int | None) -> TrainingSet:
    if limit is None or limit >= len(data):
        return data
    return data.portion(limit) if isinstance(data, MultiLabelSet) else Portion(data, limit)


def _refuse_misspelt(data: str) -> None:
    """Suggest the nearest set if something like cifar:FOLDER is neither in the catalogue nor a path."""
    name, colon, folder = data.partition(":")
    close = nearest(name, CATALOG, 1)
    if colon and close and name.isalnum() and not folder.startswith("//") and not os.path.exists(data):
        raise UserError(f"no evaluation set '{name}'. Did you mean '{close[0]}:{folder}'?")
