"""Norm maps of a few probe images before, at and after the onset, of runs that kept them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from vitreg.records import NormsMoment, Watch
from vitreg.report.svg import element, png
from vitreg.report.words import number

SIDE, GAP = 84.0, 6.0  # pixels of a map, and between two
COLOUR = (226, 100, 52)


def shown(watch: Watch) -> list[tuple[str, NormsMoment]]:
    """Return which looks are shown: before, at and after the onset; without one the first, that of the largest norm, the last.

    Artifacts that dissolve again have no onset, and are seen in the look of the largest norm only.
    """
    kept = [moment for moment in watch.moments if moment.maps]
    if len(kept) < 3:
        return [(f"step {moment.step:,}", moment) for moment in kept]
    at = next((i for i, moment in enumerate(kept) if moment.step == watch.onset), None)
    if at is None:
        block = peak_block(watch)
        largest = max(kept[1:-1], key=lambda moment: float(over_median(moment.maps[block]).max()))
        chosen = [("first, ", kept[0]), ("largest, ", largest), ("at the end, ", kept[-1])]
    else:
        chosen = [("before, ", kept[max(at - 1, 0)]), ("onset, ", kept[at]), ("at the end, ", kept[-1])]
    return [(f"{words}step {moment.step:,}", moment) for words, moment in chosen]


def peak_block(watch: Watch) -> int:
    """Return the block whose maps are shown: that of the largest norm over an image's median, over all looks."""
    kept = [moment.maps for moment in watch.moments if moment.maps]
    ratios = np.array([[over_median(block).max() for block in maps] for maps in kept])  # [looks, blocks]
    return int(ratios.max(0).argmax())


def drawable(watch: Watch) -> bool:
    """Whether maps of a square grid were kept."""
    maps = next((moment.maps for moment in watch.moments if moment.maps), None)
    return maps is not None and math.isqrt(len(maps[0][0])) ** 2 == len(maps[0][0])


def chart(watch: Watch) -> Markup | None:
    """Draw the maps, a row of images for each look; None if no maps were kept, or the grid is not square."""
    if not drawable(watch):
        return None
    looks = shown(watch)
    block = peak_block(watch)
    ratios = [over_median(moment.maps[block]) for _, moment in looks]  # [images, P] each
    top = max(2.0, *(float(each.max()) for each in ratios))
    images = len(ratios[0])
    wide = 150 + images * (SIDE + GAP)
    parts: list[Markup] = []
    for row, ((words, _), maps) in enumerate(zip(looks, ratios, strict=True)):
        y = row * (SIDE + GAP)
        parts.append(element("text", words, x=0.0, y=y + SIDE / 2, class_="label"))
        parts.append(
            element("text", f"largest: {number(float(maps.max()))}", x=0.0, y=y + SIDE / 2 + 16, class_="tick")
        )
        for place, ratio in enumerate(maps):
            x = 150 + place * (SIDE + GAP)
            parts.append(element("rect", x=x, y=y, width=SIDE, height=SIDE, class_="cell-empty"))
            parts.append(
                element(
                    "image",
                    href=png(_pixels(ratio, top)),
                    x=x,
                    y=y,
                    width=SIDE,
                    height=SIDE,
                    image_rendering="pixelated",
                )
            )
    alt = f"Norms after block {block} over the image's median, of {images} images. "
    alt += "; ".join(
        f"{words}: largest {number(float(maps.max()))}" for (words, _), maps in zip(looks, ratios, strict=True)
    )
    tall = len(looks) * (SIDE + GAP)
    return element(
        "svg", *parts, viewBox=f"0 0 {wide:g} {tall:g}", class_="chart born-maps", role="img", aria_label=alt
    )


def over_median(maps: Sequence[Sequence[float]]) -> np.ndarray:
    """Return norms over the median of their image, [images, P]."""
    norms = np.asarray(maps, dtype=np.float64)
    return norms / np.maximum(np.median(norms, 1, keepdims=True), np.finfo(np.float64).tiny)


def _pixels(ratio: np.ndarray, top: float) -> np.ndarray:
    """Return one map as colours: nothing at the median and below, the full colour at `top`, logarithmic between."""
    side = math.isqrt(len(ratio))
    pixels = np.empty((side, side, 4), dtype=np.uint8)
    pixels[..., :3] = COLOUR
    strength = np.log(np.maximum(ratio, 1.0)) / math.log(top)
    pixels[..., 3] = np.rint(255 * np.clip(strength, 0, 1)).reshape(side, side)
    return pixels
