"""Boxes of PASCAL VOC: one XML file for every image, with corners counted from 1 and both inclusive."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from vitreg.data.boxes.truth import BoxSet, ImageBoxes, checked, refuse_fractions
from vitreg.documents import read_xml
from vitreg.errors import UserError

CONVENTION = "VOC: xmin - 1, ymin - 1, objects of all classes"


def voc_boxes(folder: str | Path, names: Sequence[str] | None = None, *, hard: bool = True) -> BoxSet:
    """Read a folder of VOC annotations.

    VOC counts pixels from 1 and includes the last: xmin and ymin are lowered by one, which makes a box half-open. This,
    and keeping objects marked difficult or truncated, is what LOST does (Siméoni et al. 2021). Boxes of the parts of a
    person are not boxes of objects, and left out.

    Args:
        folder: holds NAME.xml for the image NAME.jpg.
        names: read these only, in this order; all files, sorted, if None.
        hard: keep objects marked difficult or truncated.
    Raises:
        UserError: if the folder or a file cannot be read, is no VOC annotation, or has boxes outside their image.
    """
    folder = Path(folder)
    if names is None:
        try:
            names = sorted(entry[:-4] for entry in os.listdir(folder) if entry.lower().endswith(".xml"))
        except OSError as error:
            raise UserError(f"cannot read the annotations in '{folder}': {error.strerror or error}.") from error
        if not names:
            raise UserError(f"no VOC annotation (.xml) in '{folder}'.")
    images, dropped = [], 0
    for name in names:
        image, left_out = read_voc(folder / f"{name}.xml", hard=hard)
        images.append(image)
        dropped += left_out
    convention = CONVENTION + ("" if hard else ", without those marked difficult or truncated")
    return BoxSet(str(folder), convention, images, dropped=dropped, by_stem=True)


def read_voc(path: Path, *, hard: bool = True) -> tuple[ImageBoxes, int]:
    """Read one annotation. Returns the boxes and how many were left out.

    Raises:
        UserError: if it cannot be read, is no VOC annotation, or has boxes outside their image.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(f"'{path}' is no VOC annotation: it begins with <{root.tag}>, not <annotation>.")
    size = _size(root, path)
    given, boxes, labels, dropped = [], [], [], 0
    for thing in root.findall("object"):
        if not hard and "1" in (_text(thing, "difficult"), _text(thing, "truncated")):
            dropped += 1
            continue
        corners = thing.find("bndbox")
        if corners is None:
            raise UserError(f"'{path}' has an object without a <bndbox>.")
        x0, y0, x1, y1 = (_number(corners, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax"))
        given.append((x0, y0, x1, y1))
        boxes.append((x0 - 1, y0 - 1, x1, y1))
        labels.append(_text(thing, "name"))
    refuse_fractions(given, where=f"'{path}'")
    found = checked(boxes, size, where=f"'{path}'")
    return ImageBoxes(path.stem, size, found, tuple(labels)), dropped


def _size(root: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    found = root.find("size")
    if found is None:
        return None
    height, width = (int(_number(found, tag, path)) for tag in ("height", "width"))
    return (height, width) if height > 0 and width > 0 else None  # labelling tools write 0 for unknown


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _number(element: ElementTree.Element, tag: str, path: Path) -> float:
    text = _text(element, tag)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"'{path}' has '{text}' for <{tag}> where a number belongs.") from None
