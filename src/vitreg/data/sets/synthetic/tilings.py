"""Images of `synthetic:retrieval` as what verbs read: pictures, pictures with numbers for every tile, or with classes.

Nothing is kept: each image is drawn when it is read. Both sides draw from the same generator, from other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from vitreg.data.sets.example import Example
from vitreg.data.sets.synthetic.naming import Side, Synthetic
from vitreg.data.sets.synthetic.parameters import RetrievalParameters
from vitreg.data.sets.synthetic.retrieval import Tiles, draw_tiles, picture_of

CLASSES = ("background", "tile", "marked tile")
_VALIDATION = 1 << 31  # the first number of the validation side, far above every training image


@dataclass(frozen=True, slots=True)
class Tiling:
    """One image and what is true of its tiles."""

    tiles: Tiles
    given: RetrievalParameters

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return picture_of(self.tiles, self.given)

    @property
    def numbers(self) -> Float32[np.ndarray, "rows cols C"]:
        """What is asked of every tile; NaN where nothing is."""
        asked = np.where(self.tiles.judged[:, None], self.tiles.asked, np.float32(np.nan))
        return asked.reshape(self.given.grid, self.given.grid, -1)

    @property
    def classes(self) -> UInt8[np.ndarray, "H W"]:
        """The number of every pixel in `CLASSES`."""
        kinds = np.where(self.tiles.background, 0, 1 + self.tiles.marked).astype(np.uint8)
        return kinds.reshape(self.given.grid, -1).repeat(self.given.side, 0).repeat(self.given.side, 1)


class Tilings:
    """One side of a set: item i is image i of it, drawn anew each time."""

    def __init__(self, synthetic: Synthetic, side: Side) -> None:
        self.synthetic, self.side = synthetic, side
        self._count = synthetic.length(side)
        self._first = _VALIDATION if side == "val" else 0

    def __len__(self) -> int:
        """Count the images."""
        return self._count

    def __getitem__(self, index: int) -> Tiling:
        """Draw an image. Raises IndexError."""
        self.check(index)
        given = self.synthetic.parameters
        return Tiling(draw_tiles(self.synthetic.seed, self._first + index, given), given)

    def check(self, index: int) -> None:
        """Raise IndexError where there is no such image."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")

    def name(self, index: int) -> str:
        """Return what an image is called; the number of images is not part of it."""
        return f"{self.synthetic.title}:{self.side}-{index:05d}"

    @property
    def note(self) -> str:
        """A sentence that says what the images are."""
        return f"The images of {self.synthetic.title} are synthetic: tiles whose pixels are numbers, not pictures of anything."


class TilingSet:
    """Images as a training set, with the numbers that are asked of their tiles, or with nothing; see `example.Pairs` too.

    Args:
        asked: targets are numbers [rows, cols, C], NaN for tiles of which nothing is asked.
        limit: of them at most, spread evenly.
    """

    classes: tuple[str, ...] | None = None
    labels = None

    def __init__(self, tilings: Tilings, *, asked: bool = False, limit: int | None = None) -> None:
        self._tilings, self._asked, self.notes = tilings, asked, (tilings.note,)
        self.title = f"{tilings.synthetic.title} {tilings.side}"
        self._count = len(tilings) if limit is None else min(limit, len(tilings))

    def __len__(self) -> int:
        """Count the images."""
        return self._count

    def _place(self, index: int) -> int:
        return index * len(self._tilings) // self._count

    def tiling(self, index: int) -> Tiling:
        """Draw one image."""
        return self._tilings[self._place(index)]

    def read(self, index: int) -> Example:
        """Draw one picture, and what is asked."""
        tiling = self.tiling(index)
        return Example(tiling.image, tiling.numbers if self._asked else None)

    def background(self, index: int) -> Bool[np.ndarray, "rows cols"]:
        """Return which tiles of an image are background."""
        tiling = self.tiling(index)
        return tiling.tiles.background.reshape(tiling.given.grid, tiling.given.grid)

    def name(self, index: int) -> str:
        """Return what an image is called."""
        return self._tilings.name(self._place(index))


class TilingMasks(TilingSet):
    """Images with a class for every pixel: background, tile or marked tile."""

    classes = CLASSES

    def map_name(self, index: int) -> str:
        """Return what a map is called."""
        return self.name(index)

    def empty(self, values: np.ndarray) -> str:
        """Say that something can be learned from every map."""
        return ""

    def map(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the class of every pixel."""
        return self.tiling(index).classes
