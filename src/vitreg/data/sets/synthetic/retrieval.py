"""One image of `synthetic:retrieval`: a grid of tiles, each with a code and tags, and what is asked of each tile.

Every foreground tile must give its own code. A marked one must also give, for each of its tags, the mean code of the
foreground tiles that share it; the others give zeros there. So most tiles must look at others and then not write. Of
background tiles, which have no tags, nothing is asked unless the parameters say so. Two more tasks ask for other things:
the code of the left neighbour, of marked tiles, and the mean code of the marked tiles, of all.

A number v is the byte 128 + 32 v: codes between -4 and 3.97 in steps of 1/32, so the picture shows each number that was
drawn to 1/64 (rms 0.009). What is asked is computed from the numbers as shown, so it is exact. Codes of photographs are
components of their patches (`patches`).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

from vitreg.data.sets.synthetic.parameters import PATCH, RetrievalParameters
from vitreg.data.sets.synthetic.patches import Crop, album_of

CENTRE, STEPS = 128, 32
"""The byte of 0, and bytes for 1."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of an image, row by row.

    Args:
        codes: as the picture shows them, or would if it showed no pixels.
        tags: -1 for background, and for tiles without a segment.
        seen: the tags that the picture shows; -1 where it shows none.
        asked: own code, then what is asked of others; zeros where that is nothing.
        judged: tiles of which something is asked; if the whole image is asked, the one that knows the answer.
        pixels: of the photograph; None if the picture shows codes.
    """

    codes: Float32[np.ndarray, "N Z"]
    tags: Int64[np.ndarray, "N J"]
    seen: Int64[np.ndarray, "N J"]
    background: Bool[np.ndarray, " N"]
    marked: Bool[np.ndarray, " N"]
    asked: Float32[np.ndarray, "N C"]
    judged: Bool[np.ndarray, " N"]
    pixels: UInt8[np.ndarray, "N p p 3"] | None = None


def draw_tiles(seed: int, number: int, given: RetrievalParameters) -> Tiles:
    """Draw one image, the same for ever, whatever the number of images. Photographs are cut and tagged by the same draws."""
    draw = np.random.Generator(np.random.PCG64([seed, number, 2]))  # scenes have 0 and 1
    count, size = given.grid**2, given.code
    codes = draw.standard_normal((count, size), np.float32)
    tags = draw.integers(given.kinds, size=(count, given.tags))
    lots = draw.random((2, count))
    common, fresh = draw.standard_normal((1, size), np.float32), draw.standard_normal((count, size), np.float32)
    crop = album_of(given).crop(draw) if given.photos else None
    background = _background(lots[0], crop, given)
    codes = codes if crop is None else crop.codes
    if not given.flat:
        codes[background] = (np.sqrt(1 - given.diversity**2) * common + given.diversity * fresh)[background]
    codes = values_of(bytes_of(codes))
    if given.tagged == "content":
        tags = album_of(given).clusters_of(codes)
    elif crop is not None and crop.segments is not None:
        tags = crop.segments[:, None]
    seen = np.where(background[:, None] & (given.shown == "foreground"), -1, tags if given.shown != "none" else -1)
    tags = np.where(background[:, None], -1, tags)
    marked = _marked(lots[1], codes, ~background & (tags >= 0).all(1), given)
    judged = np.ones(count, bool) if given.loss else ~background
    asked = np.zeros((count, given.channels // size, size), np.float32)
    asked[:, 0] = codes
    _ask(asked[:, 1:], codes, tags, marked, given)
    return Tiles(
        codes, tags, seen, background, marked, asked.reshape(count, -1), marked if given.answer == "image" else judged,
        crop.pixels if crop is not None and given.pixels else None,
    )  # fmt: skip


def _background(lots: np.ndarray, crop: Crop | None, given: RetrievalParameters) -> Bool[np.ndarray, " N"]:
    """Return which tiles are background: one at least, unless none is wanted."""
    if given.flat and crop is not None:
        count = max(1, round(given.background * len(lots))) if given.background else 0
        background = np.zeros(len(lots), bool)
        background[np.argsort(crop.contrast, kind="stable")[:count]] = True
        return background
    background = lots < given.background
    background[0] |= given.background > 0 and not background.any()
    return background


def _marked(lots: np.ndarray, codes: np.ndarray, may: np.ndarray, given: RetrievalParameters) -> Bool[np.ndarray, " N"]:
    """Return which of the tiles that may be are marked: one if it answers for the image, one at least if all read it."""
    if given.mark == "content":
        last = codes[:, -1]
        bound = album_of(given).bound(given.marked) if given.photos else _normal_bound(given.marked)
        marked, order = (last > bound) & may, -last
    else:
        marked, order = (lots < given.marked) & may, lots
    if may.any() and (given.answer == "image" or (given.task == "marked" and not marked.any())):
        marked = np.arange(len(may)) == np.argmin(np.where(may, order, np.inf))
    return marked


def _normal_bound(share: float) -> float:
    return NormalDist().inv_cdf(1 - share) if 0 < share < 1 else (np.inf, -np.inf)[share == 1]


def _ask(
    asked: Float32[np.ndarray, "N J Z"],
    codes: np.ndarray,
    tags: np.ndarray,
    marked: np.ndarray,
    given: RetrievalParameters,
) -> None:
    """Fill in what is asked of others."""
    if given.task == "marked":
        asked[:, 0] = codes[marked].mean(0) if marked.any() else 0
        return
    for place in np.flatnonzero(marked):
        if given.task == "left":
            row, col = divmod(place, given.grid)
            asked[place, 0] = codes[row * given.grid + (col - 1) % given.grid]
            continue
        for tag in range(given.tags):
            asked[place, tag] = codes[tags[:, tag] == tags[place, tag]].mean(0)


def picture_of(tiles: Tiles, given: RetrievalParameters) -> Image.Image:
    """Show the tiles: each holds its numbers pixel by pixel, red, green, blue, then grey; or the pixels of its patch, with
    its other numbers in the row below and the column beside them."""
    count, side = len(tiles.codes), given.side
    kinds = (tiles.seen[:, :, None] == np.arange(given.kinds)).reshape(count, -1)  # [N, J * T]
    parts = [kinds] * (given.shown != "none") + [tiles.marked[:, None]] * (given.mark == "bit")
    extras = np.concatenate(parts, 1, dtype=np.float32) if parts else np.zeros((count, 0), np.float32)
    if tiles.pixels is None:
        pixels = np.full((count, side * side * 3), CENTRE, np.uint8)
        pixels[:, : given.features] = bytes_of(np.concatenate([tiles.codes, extras], 1))
    else:
        pixels = np.full((count, side, side, 3), CENTRE, np.uint8)
        pixels[:, :PATCH, :PATCH] = tiles.pixels
        rest = np.full((count, 3 * (side**2 - PATCH**2)), CENTRE, np.uint8)
        rest[:, : given.extras] = bytes_of(extras)
        pixels[:, beside_patch(side)] = rest.reshape(count, -1, 3)
    grid = pixels.reshape(given.grid, given.grid, side, side, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(given.grid * side, given.grid * side, 3))


def beside_patch(side: int) -> Bool[np.ndarray, "side side"]:
    """Return the pixels of a tile that its patch leaves free."""
    free = np.ones((side, side), bool)
    free[:PATCH, :PATCH] = False
    return free


def read_picture(image: Image.Image, given: RetrievalParameters) -> Float32[np.ndarray, "N F"]:
    """Return the numbers that the tiles of a picture show: code (not beside pixels), tags as 0 and 1, and the mark."""
    side = given.side
    tiles = np.asarray(image).reshape(given.grid, side, given.grid, side, 3).transpose(0, 2, 1, 3, 4)
    pixels = tiles.reshape(given.grid**2, side, side, 3)
    if given.pixels:
        return values_of(pixels[:, beside_patch(side)].reshape(given.grid**2, -1)[:, : given.extras])
    return values_of(pixels.reshape(given.grid**2, -1)[:, : given.features])


def bytes_of(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return numbers as bytes, the nearest that there is."""
    return np.clip(np.rint(values * STEPS) + CENTRE, 0, 255).astype(np.uint8)


def values_of(pixels: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Return the numbers that bytes show."""
    return (pixels.astype(np.float32) - CENTRE) / STEPS


def least_error(given: RetrievalParameters) -> float | None:
    """Return the least mean squared error, of each number that a marked tile is asked of others, if no tile looks at another.

    None where it has no closed form: codes of one photograph depend on each other, and an image knows several tiles. A left
    neighbour's code says nothing of a tile's own, so all its variance, 1, is left.

    A marked tile's best guess at the mean code of its n sharers, of which it is one, is its code times the mean of 1 / n: the
    other codes are independent of it, of mean 0 and variance 1. n - 1 is binomial over the other tiles with the chance
    (1 - background) / kinds, and the error is E[(n - 1) / n^2] + Var[1 / n]. All else (own codes, zeros) can be given without
    error, so that of all judged numbers is smaller by the share that is asked. Codes are taken as normal, without their
    rounding, and the rule that one tile at least is background is left out.
    """
    if given.photos or given.mark != "bit" or given.answer != "tiles" or given.task == "marked":
        return None
    if given.task == "left":
        return 1.0
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
