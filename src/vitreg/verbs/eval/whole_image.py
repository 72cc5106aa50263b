"""The data of whole-image probes: one feature row per image on each side, the labels, and the controls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vitreg.data.sets.example import TrainingSet, some
from vitreg.data.sets.sides import Metric, Sides
from vitreg.errors import UserError
from vitreg.features.extract import Wanted, extract
from vitreg.features.store import FeatureStore
from vitreg.passes.bench import Bench
from vitreg.passes.view import View
from vitreg.probes.rows import Beside, Rows
from vitreg.probes.scores import score
from vitreg.records import Skipped
from vitreg.verbs.eval.settings.whole_image import Token

KNN_RATIO = 256 / 224
"""Short side of the picture / side of the crop, in DINOv2's kNN and linear probe."""
TRANSFER_RATIO = 1.0
"""The same ratio in DINOv2's transfer sets."""


@dataclass(frozen=True, slots=True)
class Side:
    """Features [n, D] of the readable images of one side, and their labels: class numbers, or 0 and 1 per label."""

    features: Rows
    labels: Int64[Tensor, " n"] | Int64[Tensor, "n C"]
    ignored: Bool[Tensor, "n C"] | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Probed:
    """The sides of a set as features of a model.

    Args:
        val: the validation side; None if the set has none.
        classes: names of the classes.
        notes: sentences about the set, for the user.
    """

    train: Side
    test: Side
    val: Side | None
    metric: Metric
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each side."""
        sides = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len(side) for name, side in sides.items() if side is not None}

    def trials(self, names: Iterable[str]) -> dict[str, int]:
        """Number of images behind each percentage; empty if the set's metric is not a plain percentage."""
        return dict.fromkeys(names, len(self.test)) if self.metric == "top1" else {}

    def score(self, found: Tensor) -> float:
        """Return the set's metric on its test side, in percent; see `vitreg.probes.scores.score`."""
        return score(found, self.test.labels, self.metric, self.test.ignored)

    @property
    def majority(self) -> float:
        """Score of always answering the commonest training class; with several labels per image, of any constant."""
        if self.metric == "map":
            return self.score(torch.zeros(self.test.labels.shape))
        commonest = self.train.labels.bincount().argmax()
        return self.score(commonest.expand(len(self.test)))

    def shuffled(self, seed: int) -> Tensor:
        """Return the training labels in random order, so a probe can learn nothing about the images from them."""
        return self.train.labels[torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))]


def open_classes(bench: Bench, *, several: bool = False) -> Sides:
    """Open sides with classes.

    Args:
        several: whether images may have several labels.
    Raises:
        UserError: for data without classes or a second side, or with several labels if `several` is False.
    """
    sides = bench.sides()
    if sides.train.classes is None or len(sides.train.classes) < 2:
        raise UserError(f"'{bench.data}' has no classes to tell apart; give folders of classes in train/ and val/.")
    if sides.multilabel and not several:
        raise UserError(f"images of '{bench.data}' have several labels, which only the task logistic can use.")
    return sides


def probed(bench: Bench, sides: Sides, wanted: Wanted, view: View, columns: tuple[str, ...]) -> Probed:
    """Extract features of all sides, or reuse stored ones.

    Args:
        columns: names of the features that make up a row, such as "cls/-1", in this order.
    """
    skipped: list[Skipped] = []
    opened: dict[str, Side] = {}
    for name, data in {"train": sides.train, "val": sides.val, "test": sides.test}.items():
        if data is None:
            continue
        store = extract(bench, data, wanted, view)
        skipped += store.skipped
        ignored = None if name != "test" or sides.ignored is None else torch.from_numpy(sides.ignored[store.rows])
        opened[name] = Side(_rows(store, columns), _labels(data, store.rows), ignored)
    classes = cast(tuple[str, ...], sides.train.classes)
    notes = tuple(_gaps(opened["train"], opened["test"], classes))
    return Probed(opened["train"], opened["test"], opened.get("val"), sides.metric, classes, notes, tuple(skipped))


def token_columns(view: View, token: Token) -> tuple[Wanted, tuple[str, ...]]:
    """Return the features to extract, and the columns of a row.

    Raises:
        UserError: if the model lacks the class token requested.
    """
    if "cls" in token and not has_cls(view):
        raise UserError(f"{view.backbone.spec} has no class token; take the mean of its patch tokens: --token mean.")
    kinds = token.split("+")
    wanted = Wanted(cls=(-1,) if "cls" in kinds else (), mean=(-1,) if "mean" in kinds else ())
    return wanted, tuple(f"{kind}/-1" for kind in kinds)


def has_cls(view: View) -> bool:
    """Whether the model has a class token."""
    return bool(view.layout.cls)


def transform_words(view: View) -> str:
    """Return the preprocessing in words, for the protocol."""
    preprocess, seen = view.pictures, view.size
    height, width = preprocess.size
    last = "" if seen == preprocess.size else f", {view.policy} to {seen[0]}x{seen[1]}"
    if not preprocess.crop:
        return f"squashed to {height}x{width}, {preprocess.interpolation}{last}"
    short = preprocess.resize
    if short is None:
        return f"not resized, centre crop {height}x{width}{last}"
    first = f"short side {short}" if isinstance(short, int) else f"{short[0]}x{short[1]} ({preprocess.aspect})"
    return f"{first} {preprocess.interpolation}, centre crop {height}x{width}{last}"


def _rows(store: FeatureStore, columns: tuple[str, ...]) -> Rows:
    blocks = [store[name] for name in columns]
    return blocks[0] if len(blocks) == 1 else Beside(blocks)


def _labels(data: TrainingSet, rows: Int64[np.ndarray, " n"]) -> Tensor:
    if data.labels is None:  # known only after reading, as in some torchvision sets
        return torch.tensor([cast(int, data.read(int(row)).target) for row in rows])
    return torch.from_numpy(np.asarray(data.labels)[rows].astype(np.int64))


def _gaps(train: Side, test: Side, classes: tuple[str, ...]) -> list[str]:
    """Say which classes have no image on one of the sides."""
    notes = []
    for side, where, so in ((train, "training", "never answered"), (test, "test", "not judged")):
        if side.labels.ndim == 2:
            empty = side.labels.sum(0) == 0
        else:
            empty = side.labels.clamp(0, len(classes) - 1).bincount(minlength=len(classes)) == 0
        if bool(empty.any()):
            names = [classes[int(i)] for i in empty.nonzero()[:, 0]]
            notes.append(f"{len(names)} of {len(classes)} classes without a {where} image, so {so}: {some(names)}.")
    return notes
