"""What all synthetic sets share: sides whose images are drawn when they are read, in order, and with a map each.

Nothing is kept. Both sides draw from the same generator, from other numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
from PIL import Image

from vitreg.data.sets.example import Example
from vitreg.data.sets.synthetic.naming import Side, Synthetic
from vitreg.data.sources.parts import Listed, Locator
from vitreg.data.sources.pictures import InMemory

_VALIDATION = 1 << 31  # the first number of the validation side, far above every training image


class Pictured(Protocol):
    """One drawn image, and what is true of it."""

    @property
    def image(self) -> Image.Image:
        """The picture."""
        ...


Item = TypeVar("Item", bound=Pictured)


class Drawn(ABC, Generic[Item]):
    """One side of a synthetic set: item i is image i of it, drawn anew each time."""

    def __init__(self, synthetic: Synthetic, side: Side) -> None:
        self.synthetic, self.side = synthetic, side
        self._title = synthetic.title  # spelt once: a run hashes the names of all its images
        self._count = synthetic.length(side)
        self._first = _VALIDATION if side == "val" else 0

    @abstractmethod
    def draw(self, number: int) -> Item:
        """Draw the image of a number, by the seed of the set."""

    @property
    @abstractmethod
    def note(self) -> str:
        """A sentence that says what the images are."""

    def __len__(self) -> int:
        """Count the images."""
        return self._count

    def __getitem__(self, index: int) -> Item:
        """Draw an image. Raises IndexError."""
        self.check(index)
        return self.draw(self._first + index)

    def check(self, index: int) -> None:
        """Raise IndexError where there is no such image."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")

    def name(self, index: int) -> str:
        """Return what an image is called; the number of images is not part of it."""
        return f"{self._title}:{self.side}-{index:05d}"


class DrawnSet(Generic[Item]):
    """Images of a side as a set, see `example.Pairs`; `limit` of them at most, spread evenly."""

    classes: tuple[str, ...] | None = None
    labels = None

    def __init__(self, drawn: Drawn[Item], limit: int | None = None) -> None:
        self._drawn, self.notes = drawn, (drawn.note,)
        self.title = f"{drawn.synthetic.title} {drawn.side}"
        self._count = len(drawn) if limit is None else min(limit, len(drawn))

    def __len__(self) -> int:
        """Count the images."""
        return self._count

    def _place(self, index: int) -> int:
        return index * len(self._drawn) // self._count

    def drawn(self, index: int) -> Item:
        """Draw one image, with what is true of it."""
        return self._drawn[self._place(index)]

    def read(self, index: int) -> Example:
        """Draw one picture."""
        return Example(self.drawn(index).image)

    def name(self, index: int) -> str:
        """Return what an image is called."""
        return self._drawn.name(self._place(index))

    def map_name(self, index: int) -> str:
        """Return what its map is called."""
        return self.name(index)

    def empty(self, values: np.ndarray) -> str:
        """Say that something can be learned from every map."""
        return ""


class _Images:
    def __init__(self, drawn: Drawn[Any]) -> None:
        self._drawn = drawn

    def __getitem__(self, index: int) -> Image.Image:
        return self._drawn[index].image


class Locators(Sequence[Locator]):
    """Where each image of a side is, without a list of them."""

    def __init__(self, drawn: Drawn[Any]) -> None:
        self._drawn, self._images = drawn, _Images(drawn)

    def __len__(self) -> int:
        return len(self._drawn)

    @overload
    def __getitem__(self, index: int) -> Locator: ...
    @overload
    def __getitem__(self, index: slice) -> list[Locator]: ...
    def __getitem__(self, index: int | slice) -> Locator | list[Locator]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        self._drawn.check(index)
        return InMemory(self._drawn.name(index), self._images, index)


def listed(drawn: Drawn[Any]) -> Listed:
    """Return the images of a side, in order."""
    return Listed(Locators(drawn), (drawn.note,))
