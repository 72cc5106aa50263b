"""Labels, boxes and masks of the images, where a table is given them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.documents import read_json
from vitreg.errors import UserError

NO_LABEL = -1


@dataclass(frozen=True)
class Truth:
    """True boxes on the input of a model.

    Args:
        inside: of each image, which patches have their centre in a box.
        boxes: of each image, (x0, y0, x1, y1) in pixels of the model's input; none for an image without boxes.
    """

    inside: Bool[Tensor, "n P"]
    boxes: Sequence[Float[Tensor, "objects 4"]]


@dataclass(frozen=True)
class Masks:
    """The class of every pixel of a model's input, 255 where none is known.

    Args:
        fit: of the images to fit on.
        held_out: of those that judge.
        classes: how many there are.
    """

    fit: UInt8[Tensor, "m H W"]
    held_out: UInt8[Tensor, "n H W"]
    classes: int

    @cached_property
    def sha256(self) -> str:
        """Hash of all of them."""
        found = hashlib.sha256()
        for part in (self.fit, self.held_out):
            found.update(part.numpy().tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Sentences:
    """Classes told by sentences.

    Args:
        classifier: one direction for each class; None for a model without a text tower.
        place: what the model's module returns -> the space of the sentences.
        missing: why there is none.
    """

    classifier: Float[Tensor, "C E"] | None = None
    place: Callable[[Float[Tensor, "B D"]], Float[Tensor, "B E"]] = lambda returned: returned
    missing: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the classifier."""
        held = b"" if self.classifier is None else self.classifier.numpy().tobytes()
        return hashlib.sha256(held + self.missing.encode()).hexdigest()


@dataclass(frozen=True)
class HeldOut:
    """What is known of the held-out images.

    Args:
        labels: class of each for the model's own classifier, -1 where it is not known; None if no labels are given.
        truth: their boxes; None if no boxes are given.
        masks: of these images and of those to fit on; None if no masks are given.
        sentences: of all classes, in the space of the model; None if no names of classes are given.
        clean: the model without its artifact, of a planted one.
    """

    names: Sequence[str]
    labels: Int64[Tensor, "n"] | None = None
    truth: Truth | None = None
    clean: Backbone | None = None
    masks: Masks | None = None
    sentences: Sentences | None = None

    @property
    def given(self) -> set[str]:
        """What there is: "labels", "boxes", "masks", "clean twin", "names"."""
        every = {"labels": self.labels, "boxes": self.truth, "masks": self.masks, "clean twin": self.clean}
        every["names"] = self.sentences
        return {name for name, value in every.items() if value is not None}


def read_labels(path: Path) -> dict[str, int]:
    """Read a JSON object {name: class index}, where a name is a file, its stem, its folder, or what stands before "_".

    Raises:
        UserError: for a file that holds anything else.
    """
    held = read_json(path)
    if not isinstance(held, dict) or not all(type(value) is int for value in held.values()):
        raise UserError(f'{path} holds no labels; they are a JSON object such as {{"n01440764": 0}}.')
    return {str(name): value for name, value in held.items()}


def labels_of(names: Sequence[str], labels: Mapping[str, int]) -> Int64[Tensor, "n"]:
    """Return the class of each image.

    Raises:
        UserError: if no image has one.
    """
    found = [_label(name, labels) for name in names]
    if names and max(found) == NO_LABEL:
        raise UserError(
            f"none of the images has a label; the first, {names[0]}, is looked for by file, stem and folder."
        )
    return torch.tensor(found)


def _label(name: str, labels: Mapping[str, int]) -> int:
    path = PurePosixPath(name.replace("\\", "/"))
    keys = (name, path.name, path.stem, path.parent.name, path.stem.partition("_")[0])
    return next((labels[key] for key in keys if key in labels), NO_LABEL)
