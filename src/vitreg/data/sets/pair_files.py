"""Which picture goes with which map: VOC, ADE20k and NYUd as they come, and any folder with a sub-folder for each.

Only names are looked at here; `pairs` opens the files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitreg.data.sets.example import some
from vitreg.data.sets.folders import VALIDATION, inside
from vitreg.data.sources.decode import EXTENSIONS
from vitreg.documents import TABLE_LIMIT, read_lines
from vitreg.errors import UserError

Side = Literal["train", "test"]
SIDES: tuple[Side, Side] = ("train", "test")

MAPS = (".png", ".tif", ".tiff", ".bmp", ".npy")  # no JPEG: its compression would change class numbers and distances
IMAGE_FOLDERS = ("image", "images", "rgb")
MASK_FOLDERS = ("mask", "masks", "label", "labels", "annotation", "annotations")
DEPTH_FOLDERS = ("depth", "depths")
NUMBER_FOLDERS = ("numbers", "features", "targets")
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_BTS_FOLDERS = ("", "train", "test", "sync", "official_splits/test")  # where the paths of its lists may begin


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Paths of pictures and of their maps, in order, with a sentence for each thing left out."""

    title: str
    images: Sequence[str]
    maps: Sequence[str]
    notes: tuple[str, ...] = ()


def voc(root: str, side: Side) -> PairFiles:
    """PASCAL VOC's segmentation sides train and val: ImageSets/Segmentation, JPEGImages and SegmentationClass.

    Raises:
        UserError: if a list or a file it names does not exist.
    """
    listed = os.path.join(root, "ImageSets", "Segmentation", "train.txt" if side == "train" else "val.txt")
    names = [line.split()[0] for line in _lines(listed, "voc2012:ROOT", "VOCdevkit/VOC2012")]
    images = [os.path.join(root, "JPEGImages", f"{name}.jpg") for name in names]
    maps = [os.path.join(root, "SegmentationClass", f"{name}.png") for name in names]
    _must_exist(listed, images, maps)
    return PairFiles(f"voc/{side}", images, maps)


def ade20k(root: str, side: Side) -> PairFiles:
    """ADEChallengeData2016: images and annotations, each with training and validation.

    Raises:
        UserError: if a folder does not exist or holds no pairs.
    """
    folder = "training" if side == "train" else "validation"
    images, masks = (os.path.join(root, kind, folder) for kind in ("images", "annotations"))
    return PairFiles(f"ade20k/{side}", *_matched(images, masks))


def ade20k_names(root: str) -> tuple[str, ...]:
    """Read the 150 names from objectInfo150.txt; numbers where it is missing."""
    path = Path(root) / "objectInfo150.txt"
    if not path.is_file():
        return tuple(map(str, range(150)))
    rows = [line.split("\t") for line in read_lines(path, errors="replace")[1:]]
    names = tuple(row[-1].split(",")[0].strip() for row in rows if len(row) > 1)
    return names if len(names) == 150 else tuple(map(str, range(150)))


def nyud(root: str, side: Side) -> PairFiles:
    """NYU Depth v2 by the lists of BTS, nyu_train.txt and nyu_test.txt, or as a plain folder where there are none.

    Raises:
        UserError: if a list names a file that does not exist, or a folder holds no pairs.
    """
    listed = os.path.join(root, f"nyu_{side}.txt")
    if not os.path.isfile(listed):
        return folder(root, side, DEPTH_FOLDERS)
    rows = [line.split()[:2] for line in _lines(listed, "nyud:ROOT", "nyu")]
    if any(len(row) != 2 for row in rows):
        raise UserError(
            f"'{listed}' has a line without an image and a depth file; one is 'a/rgb_00000.jpg a/d_00000.png'."
        )
    first = rows[0][0].lstrip("/")
    places = [os.path.join(root, place) for place in _BTS_FOLDERS]
    top = next((place for place in places if os.path.isfile(os.path.join(place, first))), root)
    images, maps = ([os.path.join(top, row[column].lstrip("/")) for row in rows] for column in (0, 1))
    _must_exist(listed, images, maps)
    return PairFiles(f"nyud/{side}", images, maps)


def folder(root: str, side: Side, wanted: Sequence[str]) -> PairFiles:
    """ROOT/train and ROOT/val or ROOT/test, each with image(s) and a folder of maps that have the same names.

    Args:
        wanted: what the folder of maps may be called.
    Raises:
        UserError: if a folder does not exist or holds no pairs.
    """
    sides = ("train",) if side == "train" else VALIDATION
    top = inside(root, sides)
    if top is None:
        missing = "train/" if side == "train" else "val/ (or test/)"
        raise UserError(f"no {missing} in '{root}'; it must hold train/ and val/, each with images/ and {wanted[0]}/.")
    images, maps = (_inside(top, names) for names in (IMAGE_FOLDERS, wanted))
    return PairFiles(f"{os.path.basename(os.path.normpath(root))}/{side}", *_matched(images, maps))


def thinned(files: PairFiles, limit: int | None) -> PairFiles:
    """Keep at most `limit` pairs, spread evenly."""
    count = len(files.images)
    if limit is None or limit >= count:
        return files
    kept = [number * count // limit for number in range(limit)]
    return PairFiles(files.title, [files.images[i] for i in kept], [files.maps[i] for i in kept], files.notes)


def _lines(path: str, kind: str, example: str) -> list[str]:
    try:
        lines = read_lines(Path(path), limit=TABLE_LIMIT, errors="surrogateescape")
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reason = (error.__cause__.strerror or "cannot be read").lower()
        raise UserError(f"cannot read '{path}': {reason}; {kind} wants the folder that is called {example}.") from error
    if not lines:
        raise UserError(f"the list '{path}' is empty.")
    return lines


def _must_exist(listed: str, images: Sequence[str], maps: Sequence[str]) -> None:
    for what, paths in (("images", images), ("maps", maps)):
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(paths)} {what} that '{listed}' names are missing: {some(missing, 1)}."
            )


def _inside(top: str, names: Sequence[str]) -> str:
    found = inside(top, names)
    if found is None:
        raise UserError(f"no folder {' or '.join(map(repr, names))} in '{top}'.")
    return found


def _matched(images: str, maps: str) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Pair files of two folders by their names without extension; note how many have no partner."""
    pictures, others = (_by_stem(path, suffixes) for path, suffixes in ((images, tuple(EXTENSIONS)), (maps, MAPS)))
    both = sorted(pictures.keys() & others.keys())
    if not both:
        raise UserError(
            f"no pairs: none of {len(pictures)} images in '{images}' has the name of one of {len(others)} maps in '{maps}'."
        )
    notes = []
    for what, names, where in (
        ("images have no map", sorted(pictures.keys() - others.keys()), images),
        ("maps have no image", sorted(others.keys() - pictures.keys()), maps),
    ):
        if names:
            notes.append(f"{len(names)} {what} and are left out, in '{where}': {some(names, 2)}.")
    return [pictures[name] for name in both], [others[name] for name in both], tuple(notes)


def _by_stem(top: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for path in _files(top, ""):
        stem, suffix = os.path.splitext(path)
        if suffix.lower() in suffixes:
            found[stem] = os.path.join(top, path)
    return found


def _files(top: str, below: str) -> list[str]:
    try:
        with os.scandir(os.path.join(top, below)) as entries:
            # As in listing: links to folders may lead back up, two of them without end.
            inside = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".") and not (entry.is_symlink() and os.path.isdir(entry.path))
            )
    except OSError as error:
        where = os.path.join(top, below).rstrip("/")
        raise UserError(f"cannot read the folder '{where}': {(error.strerror or 'unknown error').lower()}.") from error
    found = []
    for name, is_folder in inside:
        path = os.path.join(below, name)
        found += _files(top, path) if is_folder else [path]
    return found
