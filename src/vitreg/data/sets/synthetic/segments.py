"""Segments of photographs by the masks that lie beside them, as tags of tiles."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from vitreg.data.sets.settings import IGNORE
from vitreg.data.sources.decode import EXTENSIONS, Unreadable, numbers
from vitreg.data.sources.parts import OnDisk
from vitreg.errors import UserError
from vitreg.writing.ledger import own_files

IMAGES, MASKS = ("JPEGImages", "images", "image"), ("SegmentationClass", "masks", "mask")
"""What the folders of photographs and of masks may be called, VOC's names first."""


def paired(folder: str) -> list[tuple[str, str]]:
    """Return the photographs of a folder that have a mask, with it.

    Raises:
        UserError: for a folder that holds no masks beside its photographs.
    """
    images, masks = (
        next((path for each in names if (path := Path(folder, each)).is_dir()), None) for names in (IMAGES, MASKS)
    )
    if images is None or masks is None:
        raise UserError(
            f"the photographs of '{folder}' have no masks: tagged=segments needs {IMAGES[0]} and {MASKS[0]} in it, as VOC has "
            f"them, or {IMAGES[1]} and {MASKS[1]}."
        )
    of = {Path(path).stem: path for path in images_in(str(masks))}
    found = [(path, of[Path(path).stem]) for path in images_in(str(images)) if Path(path).stem in of]
    if not found:
        raise UserError(f"none of the photographs in '{images}' has a mask of its name in '{masks}'.")
    return found


def images_in(folder: str) -> list[str]:
    """Return the images of a folder and of those in it, sorted, without those that vitreg wrote."""
    found = []
    for place, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        own = own_files(place, EXTENSIONS)
        paths = [os.path.join(place, name) for name in sorted(names) if os.path.splitext(name)[1].lower() in EXTENSIONS]
        found += [path for path in paths if path not in own]
    return found


def has_masks(folder: str) -> bool:
    """Whether a folder has photographs with masks."""
    try:
        return bool(paired(folder))
    except UserError:
        return False


def read_segments(path: str, size: tuple[int, int]) -> Image.Image:
    """Read a mask of classes, 255 where there is none.

    Raises:
        Unreadable: for a damaged file, several channels, or another size than the photograph has.
    """
    with OnDisk(path, path).file() as file:
        values = numbers(file)
    if values.shape != size[::-1]:
        raise Unreadable("its mask has another size")
    if values.dtype.kind not in "iub" or values.min() < 0:
        raise Unreadable("its mask is no picture of classes")
    return Image.fromarray(np.where(values > IGNORE, IGNORE, values).astype(np.uint8))


def segments_of(classes: UInt8[np.ndarray, "N p p"], kinds: int) -> Int64[np.ndarray, " N"]:
    """Return the segment of each patch, the class of most of its pixels that have one; -1 for a patch without.

    Segments are numbered by how many patches of the crop they have, the largest first; all after the last kind are one.
    """
    pixels = classes.reshape(len(classes), -1)
    known = np.unique(pixels[pixels != IGNORE])
    counts = np.stack([(pixels == each).sum(1) for each in known], 1) if len(known) else np.zeros((len(pixels), 1))
    owner = np.where(counts.max(1) > 0, counts.argmax(1), -1)
    sizes = np.bincount(owner[owner >= 0], minlength=counts.shape[1])
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.where(owner >= 0, np.minimum(rank[owner], kinds - 1), -1)
