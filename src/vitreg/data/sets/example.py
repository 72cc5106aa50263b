"""One training sample, and the interface of a set of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image

from vitreg.data.sources.decode import decode
from vitreg.data.sources.parts import Locator


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its target: a class number, captions, a map of pixels or patches, or nothing."""

    image: Image.Image
    target: int | list[str] | np.ndarray | None = None


class TrainingSet(Protocol):
    """Samples that can be read in any order, from several processes."""

    def __len__(self) -> int:
        """Count the samples, unreadable ones included: nothing is decoded beforehand."""
        ...

    def read(self, index: int) -> Example:
        """Decode one sample. Raises Unreadable."""
        ...

    def name(self, index: int) -> str:
        """Return the path of a sample, for people."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of their numbers; None where targets are no classes."""
        ...

    @property
    def labels(self) -> Int64[np.ndarray, " n"] | None:
        """Class number of every sample; None without classes, or if only reading a sample tells its class."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Samples left out when the set was opened, a sentence each."""
        ...


@runtime_checkable
class WithBackground(Protocol):
    """A set that says which patches of its images are background."""

    def background(self, index: int) -> Bool[np.ndarray, "rows cols"]:
        """Return which patches of an image are background, on the grid of the data."""
        ...


@runtime_checkable
class WithMarks(Protocol):
    """A set that says which patches of its images are asked more than others."""

    def marked(self, index: int) -> Bool[np.ndarray, "rows cols"]:
        """Return which patches of an image are marked, on the grid of the data."""
        ...


class Pairs(TrainingSet, Protocol):
    """Pictures with a map for each, in pixels of the picture or on a grid over it."""

    @property
    def title(self) -> str:
        """What the set is called, for people."""
        ...

    def map_name(self, index: int) -> str:
        """Return the path of a map, for people."""
        ...

    def map(self, index: int) -> np.ndarray:
        """Read a map [H, W]. Raises Unreadable or UserError."""
        ...

    def empty(self, values: np.ndarray) -> str:
        """Return why nothing can be learned from a map; "" if something can."""
        ...


class Strings(Sequence[str]):
    """Many strings in one block of memory, which worker processes share.

    A list of `str` would soon be copied into every process: reading one writes its reference count.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in strings]  # file names may be no text
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        """Count the strings."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one string, or a list of several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


class Portion:
    """A subset: `count` samples spread evenly, so that sets sorted by class keep all their classes."""

    def __init__(self, whole: TrainingSet, count: int) -> None:
        self.whole = whole
        self._indices = np.arange(count) * len(whole) // count
        self.classes, self.notes = whole.classes, whole.notes
        self.labels = None if whole.labels is None else whole.labels[self._indices]

    def __len__(self) -> int:
        """Count the samples of the part."""
        return len(self._indices)

    def place(self, index: int) -> int:
        """Return the place of a sample in the whole set."""
        return int(self._indices[index])

    def read(self, index: int) -> Example:
        """Decode one sample. Raises Unreadable."""
        return self.whole.read(self.place(index))

    def name(self, index: int) -> str:
        """Return the path of a sample."""
        return self.whole.name(self.place(index))


def backgrounds(data: TrainingSet) -> list[Bool[np.ndarray, "rows cols"]] | None:
    """Return which patches of each image are background; None for a set that does not say."""
    data, places = _whole(data)
    return [data.background(index) for index in places] if isinstance(data, WithBackground) else None


def marks(data: TrainingSet) -> list[Bool[np.ndarray, "rows cols"]] | None:
    """Return which patches of each image are asked more than others; None for a set that does not say."""
    data, places = _whole(data)
    return [data.marked(index) for index in places] if isinstance(data, WithMarks) else None


def _whole(data: TrainingSet) -> tuple[TrainingSet, Sequence[int]]:
    """Return the set that portions of portions are of, and the places of their samples in it."""
    places: Sequence[int] = range(len(data))
    while isinstance(data, Portion):
        places, data = [data.place(index) for index in places], data.whole
    return data, places


def picture(locator: Locator) -> Image.Image:
    """Decode an image to an RGB picture, upright and opaque. Raises Unreadable."""
    with locator.file() as file:
        return decode(file, lambda image: image)


def some(names: Sequence[str], most: int = 5) -> str:
    """Name the first few: "'a', 'b' and 3 more"."""
    named = ", ".join(repr(name) for name in names[:most])
    return named if len(names) <= most else f"{named} and {len(names) - most} more"
