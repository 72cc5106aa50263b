"""One hash of a set of images, whatever their order: the sum of the SHA-256 of each, modulo 2^256.

A sum takes constant memory, goes on after a kill, and is the same over any number of processes. It is kept in limbs of 16
bits, so that it adds up exactly in floating point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64
from PIL import Image

LIMBS, BITS = 16, 16  # 256 bits
_AT_ONCE = 1 << 16  # bytes


def digest(file: BinaryIO) -> bytes | None:
    """Return the SHA-256 of a file's bytes; None if they cannot be read."""
    found = hashlib.sha256()
    try:
        file.seek(0)
        while piece := file.read(_AT_ONCE):
            found.update(piece)
    except (OSError, ValueError):
        return None
    return found.digest()


def digest_of_pixels(image: Image.Image) -> bytes:
    """Return the SHA-256 of a picture without a file: its mode, size and pixels."""
    return hashlib.sha256(f"{image.mode} {image.size}\0".encode() + image.tobytes()).digest()


def added(digests: Iterable[bytes | None]) -> Float64[np.ndarray, " limbs+1"]:
    """Add digests limb by limb; the last entry is how many there were. Those that are None count for nothing."""
    total = np.zeros(LIMBS + 1)
    for each in digests:
        if each is not None:
            total[:LIMBS] += np.frombuffer(each, "<u2")
            total[LIMBS] += 1
    return total


def hash_of(total: Float64[np.ndarray, " limbs+1"], images: int) -> str | None:
    """Return the hash as 64 hexadecimal digits; None if not every image, of `images`, has a digest."""
    if not images or int(total[LIMBS]) != images:
        return None
    value = sum(int(limb) << (BITS * place) for place, limb in enumerate(total[:LIMBS].tolist()))
    return f"{value % (1 << BITS * LIMBS):064x}"
