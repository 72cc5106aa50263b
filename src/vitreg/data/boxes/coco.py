"""Boxes of a COCO instances file: one JSON for all images, with x, y, width and height counted from 0."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vitreg.data.boxes.truth import BoxSet, ImageBoxes, checked, refuse_fractions
from vitreg.errors import UserError

CONVENTION = "COCO: x, y, x + w, y + h rounded to integers, objects of all classes, without crowds (iscrowd)"


def coco_boxes(path: str | Path, ids: Collection[int] | None = None) -> BoxSet:
    """Read a COCO instances file.

    Corners are rounded to integers and annotations marked iscrowd are left out, as LOST does (Siméoni et al. 2021).

    Args:
        path: the JSON file, with `images` and `annotations`.
        ids: read these images only.
    Raises:
        UserError: if the file cannot be read or is no COCO annotation, annotates an image it does not list, lacks one
            of `ids`, or has boxes outside their image.
    """
    path = Path(path)
    document = _document(path)
    images = {_of(image, "id", path, "image"): image for image in document["images"]}
    missing = sorted(set(ids or ()) - images.keys())
    if missing:
        raise UserError(f"'{path}' does not list the image {missing[0]} ({len(missing)} such); is it the right file?")
    names = {each.get("id"): str(each.get("name", "")) for each in _list(document, "categories", path, needed=False)}
    boxes: dict[Any, list[tuple[float, float, float, float]]] = defaultdict(list)
    labels: dict[Any, list[str]] = defaultdict(list)
    given: list[tuple[float, float, float, float]] = []
    dropped = 0
    for annotation in document["annotations"]:
        image = _of(annotation, "image_id", path, "annotation")
        if image not in images:
            raise UserError(f"'{path}' annotates the image {image!r}, which is not among its images.")
        if ids is not None and image not in ids:
            continue
        if annotation.get("iscrowd"):
            dropped += 1
            continue
        given.append(_corners(annotation, path))
        # What is not finite cannot be rounded; `checked` says so.
        a, b, c, d = (float(round(v)) if abs(v) < float("inf") else v for v in given[-1])
        boxes[image].append((a, b, c, d))
        category = annotation.get("category_id")
        labels[image].append(names.get(category, str(category)))
    refuse_fractions(given, where=f"'{path}'")
    entries = [
        _entry(image, boxes[key], labels[key], path) for key, image in images.items() if ids is None or key in ids
    ]
    return BoxSet(str(path), CONVENTION, entries, dropped=dropped)


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read the annotations '{path}': {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is no readable JSON: {error}.") from error
    if not isinstance(document, dict):
        raise UserError(f"'{path}' is no COCO annotation: it holds a {type(document).__name__}, not an object.")
    for key in ("images", "annotations"):
        _list(document, key, path, needed=True)
    return document


def _list(document: dict[str, Any], key: str, path: Path, *, needed: bool) -> list[dict[str, Any]]:
    found = document.get(key)
    if found is None and not needed:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UserError(f"'{path}' is no COCO annotation: it has no list of '{key}'.")
    return found


def _entry(
    image: dict[str, Any], boxes: list[tuple[float, float, float, float]], labels: list[str], path: Path
) -> ImageBoxes:
    name = str(_of(image, "file_name", path, "image"))
    height, width = image.get("height"), image.get("width")
    size = None
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        size = (height, width)
    found = checked(boxes, size, where=f"the image '{name}' of '{path}'", empty=True)
    return ImageBoxes(name, size, found, tuple(labels))


def _of(entry: dict[str, Any], key: str, path: Path, what: str) -> Any:
    value = entry.get(key)
    if not isinstance(value, int | str) or value == "":
        raise UserError(f"'{path}' is no COCO annotation: it has an {what} without '{key}'.")
    return value


def _corners(annotation: dict[str, Any], path: Path) -> tuple[float, float, float, float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        raise UserError(f"'{path}' has an annotation whose bbox is {box!r}, not [x, y, width, height].")
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height
