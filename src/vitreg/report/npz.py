"""Arrays kept beside a record, from which pictures are redrawn. The files are untrusted.

A file that is damaged, too large or of another kind is refused with a ValueError; pickled code is never run.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitreg.writing.files import output_folder, replacing

LARGEST = 256 << 20  # bytes, unpacked; a scan's examples take 40 million at the largest grid
T = TypeVar("T")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays into a file that appears complete or not at all.

    Raises:
        ValueError: if the arrays are larger than `read_npz` accepts.
        UserError: if the folder cannot be written.
    """
    if sum(each.nbytes for each in arrays.values()) > LARGEST:
        raise ValueError(f"more than {LARGEST >> 20} MiB of pictures are not kept")
    output_folder(path.parent)
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def read_npz(path: Path, build: Callable[[np.lib.npyio.NpzFile], T]) -> T:
    """Read a file, and return `build` of its arrays.

    Raises:
        ValueError: if the file is missing, damaged, too large, or `build` cannot read it.
    """
    name = path.name
    try:
        if not path.is_file():  # opening a pipe would block
            raise FileNotFoundError
        with zipfile.ZipFile(path) as members:
            if sum(member.file_size for member in members.infolist()) > LARGEST:
                raise ValueError(f"{name} is too large")
        with np.load(path, allow_pickle=False) as arrays:
            return build(arrays)
    except FileNotFoundError as error:
        raise ValueError(f"there is no {name}") from error
    except (
        OSError, EOFError, LookupError, TypeError, AttributeError, SyntaxError, MemoryError, OverflowError,
        RecursionError, NotImplementedError, zipfile.BadZipFile, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise ValueError(f"{name} cannot be read ({error or type(error).__name__})") from error


def read_picture(content: UInt8[np.ndarray, " bytes"], longest: int) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a PNG or JPEG. Raises ValueError if a side is longer than `longest` pixels, OSError if it is damaged."""
    with Image.open(io.BytesIO(content.tobytes()), formats=("PNG", "JPEG")) as picture:
        if max(picture.size) > longest:
            raise ValueError("a picture in it is too large")
        return np.asarray(picture.convert("RGB"))
