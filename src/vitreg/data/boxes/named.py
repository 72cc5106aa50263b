"""Benchmark sets of object discovery by name: VOC 2007 and 2012 trainval and COCO 20k, with images and boxes.

The paper's Table 3 (right) reports CorLoc on these three. Nothing is downloaded; folders have their original layout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitreg.data.boxes.coco import coco_boxes
from vitreg.data.boxes.truth import BoxSet
from vitreg.data.boxes.voc import voc_boxes
from vitreg.data.sets.spelling import spelled
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.scenes import SceneBoxes, Scenes
from vitreg.documents import read_lines
from vitreg.errors import UserError

PUBLISHED = {"voc2007": 5011, "voc2012": 11540, "coco20k": 19817}
"""Images of the sets as LOST and the paper use them."""
COCO_LIST = "coco_20k_filenames.txt"


@dataclass(frozen=True, slots=True)
class DiscoverySet:
    """Images and their boxes.

    Args:
        name: such as "voc2012/trainval".
        images: their files, all of which exist, or the name of images that are drawn.
        note: a sentence where the set is not the published one; empty otherwise.
    """

    name: str
    images: tuple[str, ...]
    boxes: BoxSet
    note: str = ""


def is_named(images: Sequence[str]) -> bool:
    """Whether an image argument names one of these sets. Raises UserError for a misspelt synthetic one."""
    drawn = named(images[0]) if len(images) == 1 else None
    if drawn is not None:
        return drawn.name == "scenes"
    kind, colon, _ = spelled(images[0]).partition(":") if images else ("", "", "")
    return bool(colon) and kind in PUBLISHED


def named_set(text: str, *, hard: bool = True) -> DiscoverySet | None:
    """Open "voc2007:ROOT", "voc2012:ROOT" or "coco20k:ROOT"; None for any other text.

    ROOT of VOC is the folder that holds JPEGImages, Annotations and ImageSets, or one above it; "voc2012:ROOT@val" takes
    another list of ImageSets/Main than trainval. ROOT of COCO holds train2014 (or images/train2014) and
    annotations/instances_train2014.json; its list, coco_20k_filenames.txt of LOST's repository, lies in ROOT or is named
    as "coco20k:ROOT@FILE". Scenes of "synthetic:scenes" bring their boxes, too.

    Args:
        hard: keep VOC's objects marked difficult or truncated.
    Raises:
        UserError: for a folder, list, image or annotation that does not exist or cannot be read.
    """
    drawn = named(text)
    if drawn is not None and drawn.name == "scenes":
        return DiscoverySet(text, (text,), SceneBoxes(Scenes(drawn, "train")))
    kind, colon, rest = spelled(text).partition(":")
    if not colon or kind not in PUBLISHED:
        return None
    root, _, chosen = rest.partition("@") if not os.path.isdir(os.path.expanduser(rest)) else (rest, "", "")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder '{root}' for {kind}; give {kind}:ROOT, the folder of the set.")
    if kind == "coco20k":
        return _coco(folder, chosen)
    return _voc(kind, folder, chosen or "trainval", hard)


def _voc(kind: str, folder: Path, chosen: str, hard: bool) -> DiscoverySet:
    year = f"VOC{kind.removeprefix('voc')}"
    places = [folder, folder / year, folder / "VOCdevkit" / year]
    root = next((place for place in places if (place / "JPEGImages").is_dir()), None)
    if root is None:
        raise UserError(
            f"no JPEGImages in '{folder}'; ROOT of {kind}:ROOT is the folder that holds it, such as {year}."
        )
    listed = root / "ImageSets" / "Main" / f"{chosen}.txt"
    names = [line.split()[0] for line in _lines(listed)]
    images = _existing(listed, [root / "JPEGImages" / f"{name}.jpg" for name in names])
    boxes = voc_boxes(root / "Annotations", names, hard=hard)
    note = _note(kind, len(images)) if chosen == "trainval" else f"The list is {chosen}, not trainval as in the paper."
    return DiscoverySet(f"{kind}/{chosen}", images, boxes, note)


def _coco(folder: Path, chosen: str) -> DiscoverySet:
    listed = Path(chosen).expanduser() if chosen else folder / COCO_LIST
    if chosen and not listed.is_file() and (folder / chosen).is_file():
        listed = folder / chosen
    lines = _lines(listed)
    ids = []
    for line in lines:  # the number of the image ends the name of its file, whatever folder the list puts before it
        match = re.search(r"(\d+)(\.\w+)?$", line)
        if not match:
            raise UserError(f"'{listed}' has the line '{line[:80]}', which ends in no number of a COCO image.")
        ids.append(int(match[1]))
    pictures = next((p for p in (folder / "train2014", folder / "images" / "train2014") if p.is_dir()), None)
    if pictures is None:
        raise UserError(f"no train2014 in '{folder}'; ROOT of coco20k:ROOT holds train2014 and annotations.")
    boxes = coco_boxes(folder / "annotations" / "instances_train2014.json", set(ids))
    images = _existing(listed, [pictures / f"COCO_train2014_{number:012d}.jpg" for number in ids])
    return DiscoverySet("coco20k", images, boxes, _note("coco20k", len(images)))


def _lines(path: Path) -> list[str]:
    lines = read_lines(path)
    if not lines:
        raise UserError(f"the list '{path}' names no image.")
    return lines


def _existing(listed: Path, images: list[Path]) -> tuple[str, ...]:
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(images)} images that '{listed}' names do not exist, such as '{missing[0]}'."
        )
    return tuple(map(str, images))


def _note(kind: str, found: int) -> str:
    if found == PUBLISHED[kind]:
        return ""
    return f"This {kind} has {found} images; the published one has {PUBLISHED[kind]}, so numbers do not compare."
