"""Ground-truth boxes, looked up by an image's file name: the set, and checks common to all file formats.

Coordinates are pixels counted from 0, half-open: a box [x0, y0, x1, y1] covers the columns x0 <= x < x1. `voc.py` and
`coco.py` read the files; `named.py` has the sets with a published list of images.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float64

from vitreg.errors import UserError
from vitreg.quantities import count

SLACK = 1.0  # pixels by which a box may exceed its image, because of rounded coordinates


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """All boxes of one image.

    Args:
        name: file of the image as its annotation names it, with `/` between folders.
        size: (height, width) the boxes were drawn on; None where the annotation does not say.
        boxes: [x0, y0, x1, y1] in pixels, in the order of the file; there may be none.
        labels: class names, one for each box.
    """

    name: str
    size: tuple[int, int] | None
    boxes: Float64[np.ndarray, "n 4"]
    labels: tuple[str, ...]


class BoxSet:
    """The boxes of many images.

    Args:
        source: the file or folder they came from.
        convention: how the annotation's numbers became boxes, and which boxes count, in words.
        images: one entry per image.
        dropped: boxes that were left out, such as crowds.
        by_stem: match the name of an image without its extension, as VOC does.
    Raises:
        UserError: if not one box is left, or two entries are for the same image.
    """

    def __init__(
        self, source: str, convention: str, images: Iterable[ImageBoxes], *, dropped: int = 0, by_stem: bool = False
    ) -> None:
        self.source, self.convention, self.dropped = source, convention, dropped
        self._by_stem = by_stem
        self._entries: dict[str, list[tuple[tuple[str, ...], ImageBoxes]]] = defaultdict(list)
        seen: set[tuple[str, ...]] = set()
        self.boxes = 0
        for image in images:
            parts = _parts(image.name)
            if parts in seen:
                raise UserError(f"'{source}' has two entries for the image '{image.name}'; keep one.")
            seen.add(parts)
            self._entries[parts[-1]].append((parts, image))
            self.boxes += len(image.boxes)
        self._length = len(seen)
        if not self.boxes:
            left = f"; {dropped} were left out ({convention})" if dropped else ""
            raise UserError(f"'{source}' holds no boxes at all for {count(self._length, 'image')}{left}.")

    def __len__(self) -> int:
        """Return the number of annotated images."""
        return self._length

    def find(self, name: str) -> ImageBoxes | None:
        """Return the boxes of an image, None for an image without an annotation.

        If files in several folders have the same name, the entry with the most folders in common is chosen.

        Args:
            name: path of the image, `archive/member` inside archives.
        Raises:
            UserError: if two entries fit equally well.
        """
        parts = _parts(name)
        if self._by_stem:
            parts = (*parts[:-1], PurePosixPath(parts[-1]).stem or parts[-1])
        found = self._entries.get(parts[-1], [])
        if len(found) <= 1:
            return found[0][1] if found else None
        shared = [_shared_end(parts, other) for other, _ in found]
        best = max(shared)
        if shared.count(best) > 1:
            names = [image.name for (_, image), count in zip(found, shared, strict=True) if count == best]
            raise UserError(
                f"'{name}' may be '{names[0]}' or '{names[1]}' of '{self.source}'; "
                "name the folder above, so that paths tell them apart."
            )
        return found[shared.index(best)][1]

    def example(self) -> str:
        """Return the name of one annotated image, to show what names are expected."""
        return next(iter(self._entries.values()))[0][1].name


def refuse_fractions(corners: Sequence[Sequence[float]], *, where: str) -> None:
    """Raise UserError if all boxes lie in 0..1: relative coordinates, as in YOLO, would become one pixel.

    Args:
        corners: x0, y0, x1, y1 as the file has them.
    """
    values = [value for box in corners for value in box]
    whole = all(float(value).is_integer() for value in values)
    if values and all(0 <= value <= 1 for value in values) and not (whole and min(values) > 0):
        box = ", ".join(f"{value:g}" for value in corners[0])
        raise UserError(
            f"{where} has boxes between 0 and 1, such as [{box}], where pixels belong; multiply x by the width and y by "
            "the height of the image."
        )


def checked(
    boxes: Sequence[Sequence[float]], size: tuple[int, int] | None, *, where: str, empty: bool = False
) -> Float64[np.ndarray, "n 4"]:
    """Return boxes as an array, after checks for impossible ones.

    Args:
        boxes: x0, y0, x1, y1, counted from 0 and half-open.
        size: (height, width) of the image.
        where: the file or image, for the sentence.
        empty: accept boxes without area, which rounding makes of very small ones.
    Raises:
        UserError: for numbers that are not finite, a box whose end lies before its start, or one outside the image.
    """
    for x0, y0, x1, y1 in boxes:
        text = f"[{x0:g}, {y0:g}, {x1:g}, {y1:g}]"
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise UserError(f"{where} has a box whose coordinates are not numbers: {text}.")
        if x1 < x0 or y1 < y0 or (not empty and (x1 == x0 or y1 == y0)):
            raise UserError(f"{where} has the box {text} (x0, y0, x1, y1), which ends before it begins.")
        if size is None:
            continue
        height, width = size
        if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
            raise UserError(
                f"{where} has the box {text} (x0, y0, x1, y1) outside its image of {width}x{height} pixels (width x "
                "height); the boxes may belong to another resolution of it."
            )
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _parts(name: str) -> tuple[str, ...]:
    """Split a path in a normalised spelling: Windows' backslashes, and macOS' separate accents."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return PurePosixPath(name).parts or (name,)


def _shared_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
