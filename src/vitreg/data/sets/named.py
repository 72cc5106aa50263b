"""Classification sets of torchvision by name, such as torchvision:CIFAR10:FOLDER. Downloads happen only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitreg.data.sets.example import Example
from vitreg.data.sources.decode import Unreadable, to_rgb
from vitreg.errors import UserError, unknown

PREFIX = "torchvision:"
_FOLDER = "data"


@dataclass(frozen=True, slots=True)
class _Known:
    """torchvision's names for the sides of a set (None: no validation side) and for its labels."""

    train: Mapping[str, Any]
    val: Mapping[str, Any] | None
    labels: Literal["targets", "labels"] | None = None


_FLAG = _Known({"train": True}, {"train": False}, "targets")
_SPLIT = _Known({"split": "train"}, {"split": "test"})
KNOWN = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "MNIST": _FLAG,
    "FashionMNIST": _FLAG,
    "KMNIST": _FLAG,
    "STL10": _Known({"split": "train"}, {"split": "test"}, "labels"),
    "Food101": _SPLIT,
    "DTD": _SPLIT,
    "Flowers102": _SPLIT,
    "FGVCAircraft": _Known({"split": "trainval"}, {"split": "test"}),
    "OxfordIIITPet": _Known({"split": "trainval"}, {"split": "test"}),
    "Country211": _Known({"split": "train"}, {"split": "valid"}, "targets"),
    "EuroSAT": _Known({}, None, "targets"),
    "SUN397": _Known({}, None),
}


class NamedSet:
    """A set of torchvision.

    Args:
        where: torchvision:NAME or torchvision:NAME:FOLDER, the folder being torchvision's `root` (./data if not said).
        split: the official side.
        download: let torchvision fetch what is missing.
    Raises:
        UserError: for a name that is not known, a side that does not exist, or files that are not there.
    """

    def __init__(self, where: str, split: Literal["train", "val"], *, download: bool = False) -> None:
        import torchvision.datasets  # here, since it brings PyTorch's compiler

        name, folder = name_and_folder(where)
        known = KNOWN[name]
        sides = known.train if split == "train" else known.val
        if sides is None:
            raise UserError(f"torchvision's {name} has no validation side; name one with --data.val.")
        kind: Any = vars(torchvision.datasets)[name]
        try:
            self._set = kind(root=folder, download=download, **sides)
        except Exception as error:  # torchvision raises RuntimeError, FileNotFoundError and more for what is missing
            reason = " ".join(str(error).split()).rstrip(".")[:160]
            raise UserError(
                f"torchvision's {name} cannot be read from '{folder}' ({reason}); pass --data.download to fetch it, or "
                f"put it there with: python -c \"import torchvision; torchvision.datasets.{name}('{folder}', download=True)\"."
            ) from error
        self.title = f"{name}/{split}"
        self.classes = tuple(str(title) for title in self._set.classes)
        labels = {"targets": lambda: self._set.targets, "labels": lambda: self._set.labels}
        self.labels = None if known.labels is None else np.asarray(labels[known.labels](), np.int64)
        self.notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the images."""
        return len(self._set)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        try:
            image, target = self._set[index]
        except Exception as error:
            raise Unreadable(" ".join(str(error).split())[:100] or "damaged file") from error
        return Example(to_rgb(image), int(target))

    def name(self, index: int) -> str:
        """Return set/side/number: torchvision gives no names."""
        return f"{self.title}/{index}"


def name_and_folder(where: str) -> tuple[str, str]:
    """Take torchvision:NAME:FOLDER apart. Raises UserError for a name that is not known."""
    name, _, folder = where.removeprefix(PREFIX).partition(":")
    if name not in KNOWN:
        raise unknown("training set", name, KNOWN, where="torchvision's that vitreg reads")
    return name, str(Path(folder or _FOLDER).expanduser())
