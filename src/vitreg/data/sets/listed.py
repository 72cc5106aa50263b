"""Sets with lists of images and labels, as the readers of official layouts return them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

from vitreg.data.sets.example import Example, Strings, picture
from vitreg.data.sources.parts import OnDisk, label


class ListedSet:
    """Image files with one class each.

    Args:
        paths: of the images.
        labels: class numbers.
        classes: names of the classes.
    Raises:
        ValueError: if paths and labels are not equally many, or a number has no class.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], labels: Sequence[int], classes: Sequence[str]) -> None:
        self.labels: Int64[np.ndarray, " n"] | None = np.asarray(labels, np.int64).reshape(-1)
        if len(paths) != len(self.labels):
            raise ValueError(f"{len(paths)} images and {len(self.labels)} labels")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(classes):
            raise ValueError(f"labels {self.labels.min()} to {self.labels.max()} for {len(classes)} classes")
        self.classes: tuple[str, ...] | None = tuple(classes)
        self.notes: tuple[str, ...] = ()
        self._paths = Strings(os.fspath(path) for path in paths)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._paths)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        assert self.labels is not None
        return Example(picture(OnDisk(self.name(index), self._paths[index])), int(self.labels[index]))

    def name(self, index: int) -> str:
        """Return the path."""
        return label(self._paths[index])


class MultiLabelSet:
    """Image files with any number of classes each. Examples have no target: the labels are here.

    Attributes:
        labels: float32 [n, C], 1 where the class is in the image and 0 where it is not.
        ignored: bool [n, C], labels that are not scored (VOC: all objects of the class are marked difficult).
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        labels: Float32[np.ndarray, "n C"],
        ignored: Bool[np.ndarray, "n C"],
        classes: Sequence[str],
    ) -> None:
        if labels.shape != (len(paths), len(classes)) or ignored.shape != labels.shape:
            raise ValueError(
                f"labels {labels.shape}, ignored {ignored.shape}: {len(paths)} images, {len(classes)} classes"
            )
        self.labels, self.ignored, self.classes = labels.astype(np.float32), ignored.astype(bool), tuple(classes)
        self.notes: tuple[str, ...] = ()
        self._paths = Strings(os.fspath(path) for path in paths)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._paths)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        return Example(picture(OnDisk(self.name(index), self._paths[index])))

    def name(self, index: int) -> str:
        """Return the path."""
        return label(self._paths[index])

    def portion(self, count: int) -> MultiLabelSet:
        """Return a part of it, spread evenly as `Portion` does."""
        rows = np.arange(count) * len(self) // count
        paths = [self._paths[int(row)] for row in rows]
        return MultiLabelSet(paths, self.labels[rows], self.ignored[rows], self.classes)


class ArraySet:
    """Images that lie in memory, such as CIFAR's."""

    def __init__(
        self, title: str, pixels: UInt8[np.ndarray, "n h w 3"], labels: Sequence[int], classes: Sequence[str]
    ) -> None:
        if len(pixels) != len(labels):
            raise ValueError(f"{len(pixels)} images and {len(labels)} labels")
        self._title, self._pixels = title, pixels
        self.labels: Int64[np.ndarray, " n"] | None = np.asarray(labels, np.int64)
        self.classes: tuple[str, ...] | None = tuple(classes)
        self.notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the images."""
        return len(self._pixels)

    def read(self, index: int) -> Example:
        """Return one image."""
        assert self.labels is not None
        return Example(Image.fromarray(self._pixels[index]), int(self.labels[index]))

    def name(self, index: int) -> str:
        """Return set/number."""
        return f"{self._title}/{index}"
