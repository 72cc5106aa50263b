"""Boxes drawn into pictures, and the contact sheets of `vitreg discover`: the boxes found, and the steps of the method.

The steps are those of the paper's Fig. 13.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from vitreg.report.sheets.sheet import Column, Sheet
from vitreg.report.words import middle

FOUND, TRUE = (255, 90, 0), (0, 200, 255)  # distinguishable without colour vision
SIDE = 380  # pixels, the longer side of a picture
STRIP = 28  # pixels above a picture for its name
CELL = 2.0  # inches
ACROSS, DOWN = 5, 6  # pictures on a sheet of boxes
STEPS_DOWN = 8

SEED, SIMILAR, INSIDE, OUTSIDE = (0.84, 0.15, 0.16), (0.98, 0.86, 0.25), (0.27, 0.51, 0.71), (0.9, 0.9, 0.9)

Boxes = Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image with its boxes, in pixels of the original image: x0, y0, x1, y1.

    Args:
        pixels: the image, of any size with the same aspect.
        size: (height, width) of the original.
        overlap: largest IoU of the first found box with a true one; None without true boxes.
    """

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    size: tuple[int, int]
    found: Boxes
    true: Boxes = ()
    overlap: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """The steps of a method for one image, on the grid of patches.

    Args:
        full: (height, width) of the grid in pixels of the original image, padding included.
        maps: title -> values.
        regions: 0 for patches outside the object, 1 inside, 2 inside and similar to the seed, 3 the seed.
    """

    picture: Picture
    full: tuple[float, float]
    maps: dict[str, Float[np.ndarray, "rows cols"]] = field(default_factory=dict)
    regions: UInt8[np.ndarray, "rows cols"] | None = None


def thumbnail(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Shrink an image to its size on a sheet."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def box_sheets(pictures: Sequence[Picture], *, title: str, subtitle: str, caption: str) -> list[Sheet]:
    """Lay pictures out in order, up to ACROSS x DOWN on a sheet."""
    each = ACROSS * DOWN
    pages = [pictures[start : start + each] for start in range(0, len(pictures), each)]
    sheets = []
    for number, page in enumerate(pages):
        across = min(ACROSS, len(page))
        rows = range(0, len(page), across)
        page_size = _page_size([picture.size for picture in page])
        cells = [_captioned(picture, page_size) for picture in page]
        first = number * each + 1
        sheets.append(
            Sheet(
                title=title + (f" ({number + 1} of {len(pages)})" if len(pages) > 1 else ""),
                subtitle=subtitle,
                rows=[f"{first + start} to {first + min(start + across, len(page)) - 1}" for start in rows],
                columns=[
                    Column(title="", cells=[cells[s + c] if s + c < len(page) else None for s in rows])
                    for c in range(across)
                ],
                caption=f"{caption} {_legend(page)}",
                cell=CELL,
            )
        )
    return sheets


def step_sheets(steps: Sequence[Steps], *, title: str, subtitle: str, caption: str) -> list[Sheet]:
    """Lay out one row per image: the picture with its boxes, each map, the regions. All images must have the same maps."""
    sheets = []
    for start in range(0, len(steps), STEPS_DOWN):
        page = steps[start : start + STEPS_DOWN]
        size = _page_size([step.full for step in page])
        inputs = [_with_boxes(step.picture, step.full, size) for step in page]
        columns = [Column(title="input and boxes", cells=inputs)]
        columns += [Column(title=name, cells=[_laid(step.maps[name], size) for step in page]) for name in page[0].maps]
        if any(step.regions is not None for step in page):
            drawn = [None if s.regions is None else _laid(_coloured(s.regions), size) for s in page]
            columns.append(Column(title="seed and object", cells=drawn))
        pages = -(-len(steps) // STEPS_DOWN)
        sheets.append(
            Sheet(
                title=title + (f" ({start // STEPS_DOWN + 1} of {pages})" if pages > 1 else ""),
                subtitle=subtitle,
                rows=[_short(step.picture.name) for step in page],
                columns=columns,
                caption=f"{caption} {_legend([step.picture for step in page])} Every map has its own colour scale, from "
                "its minimum (dark) to its maximum.",
                cell=CELL,
            )
        )
    return sheets


def _legend(pictures: Sequence[Picture]) -> str:
    further = " (thin: its further boxes)" if any(len(picture.found) > 1 for picture in pictures) else ""
    true = " Light blue: true boxes." if any(picture.true for picture in pictures) else ""
    return f"Orange: the box that was found{further}.{true}"


def _page_size(sizes: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """(height, width) in pixels that holds pictures of these sizes, the longer side of each scaled to SIDE."""
    relative = [(height / max(height, width), width / max(height, width)) for height, width in sizes]
    height, width = (max(1, round(SIDE * max(side))) for side in zip(*relative, strict=True))
    return height, width


def _captioned(picture: Picture, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    page = Image.new("RGB", (size[1], size[0] + STRIP), "white")
    page.paste(Image.fromarray(_with_boxes(picture, picture.size, size)), (0, STRIP))
    overlap = "" if picture.overlap is None else f"  IoU {picture.overlap:.2f}"
    overlap = overlap if picture.found else "  no box"
    font = ImageFont.load_default(17)
    name = _short(picture.name)
    write = ImageDraw.Draw(page)
    for letters in range(len(name), 7, -1):
        name = middle(_short(picture.name), letters)
        if write.textlength(name + overlap, font=font) <= size[1]:
            break
    write.text((1, 4), name + overlap, fill="black", font=font)
    return np.asarray(page)


def _with_boxes(
    picture: Picture, full: tuple[float, float], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the image at the top left of a page, its padding grey, the rest white, boxes on top."""
    scale = SIDE / max(full)
    page = Image.new("RGB", (size[1], size[0]), "white")
    page.paste((190, 190, 190), (0, 0, round(full[1] * scale), round(full[0] * scale)))
    shown = (max(1, round(picture.size[1] * scale)), max(1, round(picture.size[0] * scale)))
    page.paste(Image.fromarray(picture.pixels).resize(shown, Image.Resampling.BILINEAR), (0, 0))
    draw = ImageDraw.Draw(page)
    lines = [(box, TRUE, 3) for box in picture.true] + [(box, FOUND, 1) for box in picture.found[1:]]
    for box, colour, width in [*lines, *((box, FOUND, 3) for box in picture.found[:1])]:
        if not all(map(math.isfinite, box)):
            continue
        x0, y0, x1, y1 = (round(min(max(v * scale, -SIDE), 2 * SIDE)) for v in box)  # no more than a page outside
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
        draw.rectangle((x0, y0, x1, y1), outline="black", width=width + 2)  # visible on any background
        if x1 - x0 > 1 and y1 - y0 > 1:
            draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=colour, width=width)
    return np.asarray(page)


def _laid(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Place a map at the top left of an empty map with the aspect of the page, as its image is placed."""
    longer = max(values.shape[:2])
    rows, cols = (
        max(at_least, round(longer * side / SIDE)) for at_least, side in zip(values.shape, size, strict=False)
    )
    empty = 1.0 if values.ndim == 3 else np.nan
    page = np.full((rows, cols, *values.shape[2:]), empty)
    page[: values.shape[0], : values.shape[1]] = values
    return page


def _coloured(regions: UInt8[np.ndarray, "rows cols"]) -> Float[np.ndarray, "rows cols 3"]:
    return np.array([OUTSIDE, INSIDE, SIMILAR, SEED], dtype=np.float32)[regions]


def regions_of(
    mask: Bool[np.ndarray, "rows cols"], similars: Sequence[int] = (), seed: int | None = None
) -> UInt8[np.ndarray, "rows cols"]:
    """Number the patches as in `Steps.regions`; indices are row-major."""
    regions = mask.astype(np.uint8)
    regions.ravel()[list(similars)] = 2
    if seed is not None:
        regions.ravel()[seed] = 3
    return regions


def _short(name: str) -> str:
    return re.split(r"[/\\]", name)[-1] or name
