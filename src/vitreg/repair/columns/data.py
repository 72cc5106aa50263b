"""Labels and boxes of the held-out images, where a table is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Bool, Float, Int64
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
class HeldOut:
    """The held-out images.

    Args:
        labels: class of each for the model's own classifier, -1 where it is not known; None if no labels are given.
        truth: their boxes; None if no boxes are given.
        clean: the model without its artifact, of a planted one.
    """

    names: Sequence[str]
    labels: Int64[Tensor, "n"] | None = None
    truth: Truth | None = None
    clean: Backbone | None = None


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
