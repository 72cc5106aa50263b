"""Images of `synthetic:retrieval` as what verbs read: pictures, pictures with numbers for every tile, or with classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from vitreg.data.sets.example import Example
from vitreg.data.sets.synthetic.drawn import Drawn, DrawnSet
from vitreg.data.sets.synthetic.naming import Side, Synthetic
from vitreg.data.sets.synthetic.parameters import RetrievalParameters
from vitreg.data.sets.synthetic.patches import check_photographs
from vitreg.data.sets.synthetic.retrieval import Tiles, draw_tiles, picture_of

CLASSES = ("background", "tile", "marked tile")


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
        """What is asked of every tile, or of the whole image (one row and one column); NaN where nothing is."""
        if self.given.answer == "image":
            known = self.tiles.asked[self.tiles.judged]  # [1, C], or [0, C] of an image that is all background
            return known[None] if len(known) else np.full((1, 1, self.given.channels), np.nan, np.float32)
        asked = np.where(self.tiles.judged[:, None], self.tiles.asked, np.float32(np.nan))
        return asked.reshape(self.given.grid, self.given.grid, -1)

    @property
    def classes(self) -> UInt8[np.ndarray, "H W"]:
        """The number of every pixel in `CLASSES`."""
        kinds = np.where(self.tiles.background, 0, 1 + self.tiles.marked).astype(np.uint8)
        return kinds.reshape(self.given.grid, -1).repeat(self.given.side, 0).repeat(self.given.side, 1)


class Tilings(Drawn[Tiling]):
    """One side of a set.

    Raises:
        UserError: for photographs that are not there.
    """

    def __init__(self, synthetic: Synthetic, side: Side) -> None:
        super().__init__(synthetic, side)
        check_photographs(synthetic.parameters)

    def draw(self, number: int) -> Tiling:
        """Draw the tiles of a number."""
        given = self.synthetic.parameters
        return Tiling(draw_tiles(self.synthetic.seed, number, given), given)

    @property
    def note(self) -> str:
        """A sentence that says what the images are."""
        given = self.synthetic.parameters
        if given.pixels:
            return (
                f"The images of {self.synthetic.title} are crops of photographs, the same ones on both sides; what is asked of "
                "their tiles is made up."
            )
        of = ", of patches of photographs" if given.photos else ""
        return f"The images of {self.synthetic.title} are synthetic: tiles whose pixels are numbers{of}, not pictures of anything."


class TilingSet(DrawnSet[Tiling]):
    """Images as a training set, without targets."""

    def background(self, index: int) -> Bool[np.ndarray, "rows cols"]:
        """Return which tiles of an image are background."""
        tiling = self.drawn(index)
        return tiling.tiles.background.reshape(tiling.given.grid, tiling.given.grid)

    def marked(self, index: int) -> Bool[np.ndarray, "rows cols"]:
        """Return which tiles of an image are asked what they share with others."""
        tiling = self.drawn(index)
        return tiling.tiles.marked.reshape(tiling.given.grid, tiling.given.grid)


class TilingNumbers(TilingSet):
    """Images with the numbers that are asked of their tiles: [rows, cols, C], NaN where nothing is asked, or of the whole
    image: [1, 1, C]."""

    def read(self, index: int) -> Example:
        """Draw one picture, and what is asked."""
        tiling = self.drawn(index)
        return Example(tiling.image, tiling.numbers)


class TilingMasks(TilingSet):
    """Images with a class for every pixel: background, tile or marked tile."""

    classes = CLASSES

    def map(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the class of every pixel."""
        return self.drawn(index).classes
