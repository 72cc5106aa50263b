"""One image of `synthetic:retrieval`: a grid of tiles, each with a code and tags, and what is asked of each tile.

Every foreground tile must give its own code. A marked one must also give, for each of its tags, the mean code of the
foreground tiles that share it; the others give zeros there. So most tiles must look at others and then not write. Of
background tiles, which have no tags, nothing is asked unless the parameters say so.

A number v is the byte 128 + 32 v: codes between -4 and 3.97 in steps of 1/32, so the picture shows each number that was
drawn to 1/64 (rms 0.009). What is asked is computed from the numbers as shown, so it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

from vitreg.data.sets.synthetic.parameters import RetrievalParameters

CENTRE, STEPS = 128, 32
"""The byte of 0, and bytes for 1."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of an image, row by row.

    Args:
        codes: as the picture shows them.
        tags: -1 for background.
        asked: own code, then a mean code for each tag.
        judged: tiles of which something is asked.
    """

    codes: Float32[np.ndarray, "N Z"]
    tags: Int64[np.ndarray, "N J"]
    background: Bool[np.ndarray, " N"]
    marked: Bool[np.ndarray, " N"]
    asked: Float32[np.ndarray, "N C"]
    judged: Bool[np.ndarray, " N"]


def draw_tiles(seed: int, number: int, given: RetrievalParameters) -> Tiles:
    """Draw one image, the same for ever, whatever the number of images."""
    draw = np.random.Generator(np.random.PCG64([seed, number, 2]))  # scenes have 0 and 1
    count, size = given.grid**2, given.code
    codes = draw.standard_normal((count, size), np.float32)
    tags = draw.integers(given.kinds, size=(count, given.tags))
    lots = draw.random((2, count))
    common, fresh = draw.standard_normal((1, size), np.float32), draw.standard_normal((count, size), np.float32)
    background = lots[0] < given.background
    background[0] |= given.background > 0 and not background.any()
    marked = (lots[1] < given.marked) & ~background
    codes[background] = (np.sqrt(1 - given.diversity**2) * common + given.diversity * fresh)[background]
    codes = values_of(bytes_of(codes))
    tags[background] = -1
    asked = np.zeros((count, 1 + given.tags, size), np.float32)
    asked[:, 0] = codes
    for place in np.flatnonzero(marked):
        for tag in range(given.tags):
            asked[place, 1 + tag] = codes[tags[:, tag] == tags[place, tag]].mean(0)
    judged = np.ones(count, bool) if given.loss else ~background
    return Tiles(codes, tags, background, marked, asked.reshape(count, -1), judged)


def picture_of(tiles: Tiles, given: RetrievalParameters) -> Image.Image:
    """Show the tiles: each holds its numbers pixel by pixel, red, green, blue, then grey."""
    count, side = len(tiles.codes), given.side
    kinds = tiles.tags[:, :, None] == np.arange(given.kinds)  # [N, J, T]
    numbers = np.concatenate([tiles.codes, kinds.reshape(count, -1), tiles.marked[:, None]], 1, dtype=np.float32)
    pixels = np.full((count, side * side * 3), CENTRE, np.uint8)
    pixels[:, : numbers.shape[1]] = bytes_of(numbers)
    grid = pixels.reshape(given.grid, given.grid, side, side, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(given.grid * side, given.grid * side, 3))


def read_picture(image: Image.Image, given: RetrievalParameters) -> Float32[np.ndarray, "N F"]:
    """Return the numbers that the tiles of a picture show: code, tags as 0 and 1, and the mark."""
    side = given.side
    pixels = np.asarray(image).reshape(given.grid, side, given.grid, side, 3).transpose(0, 2, 1, 3, 4)
    return values_of(pixels.reshape(given.grid**2, -1)[:, : given.features])


def bytes_of(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return numbers as bytes, the nearest that there is."""
    return np.clip(np.rint(values * STEPS) + CENTRE, 0, 255).astype(np.uint8)


def values_of(pixels: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Return the numbers that bytes show."""
    return (pixels.astype(np.float32) - CENTRE) / STEPS


def least_error(given: RetrievalParameters) -> float:
    """Return the least mean squared error, of each number that a marked tile is asked of others, if no tile looks at another.

    A marked tile's best guess at the mean code of its n sharers, of which it is one, is its code times the mean of 1 / n: the
    other codes are independent of it, of mean 0 and variance 1. n - 1 is binomial over the other tiles with the chance
    (1 - background) / kinds, and the error is E[(n - 1) / n^2] + Var[1 / n]. All else (own codes, zeros) can be given without
    error, so that of all judged numbers is smaller by the share that is asked. Codes are taken as normal, without their
    rounding, and the rule that one tile at least is background is left out.
    """
    others, p = given.grid**2 - 1, (1 - given.background) / given.kinds
    counts = np.arange(others + 1)
    logs = np.cumsum(np.log(np.maximum(counts, 1)))  # log n!
    chance = (
        np.exp(logs[-1] - logs - logs[::-1] + counts * np.log(p) + (others - counts) * np.log1p(-p))
        if p < 1
        else (counts == others)
    )
    n = counts + 1.0
    return float((chance * (n - 1) / n**2).sum() + (chance / n**2).sum() - (chance / n).sum() ** 2)
