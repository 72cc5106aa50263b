"""Named tensors in a safetensors file, with checksums at writing and reading.

The library's writer copies everything in memory and does not always notice a full disk. This one writes tensor by
tensor and verifies the size. The library does the reading.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
CHUNK = 2**24


@dataclass(frozen=True, slots=True)
class FileSum:
    """Size in bytes and CRC-32 (eight hexadecimal digits) of a file."""

    bytes: int
    crc32: str


class DamagedError(Exception):
    """A file differs from what was written. The message names the file and the fault."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileSum:
    """Write tensors and wait until the disk has them.

    Tied weights are written once; the file's metadata map the other names to the stored one, as in the library's
    `save_model`.

    Raises:
        OSError: if the file is incomplete, such as on a full disk.
        ValueError: for a dtype that the format does not know.
    """
    owners: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}, which safetensors files do not hold")
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        owner = owners.setdefault(memory, name) if tensor.numel() else name
        if owner != name:
            aliases[name] = owner
    # Widest numbers first, so that each tensor begins at a multiple of its own width.
    order = sorted(tensors.keys() - aliases.keys(), key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **aliases}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    return _write(path, itertools.chain([head], (_bytes(tensors[name]) for name in order)))


def write_bytes(path: Path, data: bytes) -> FileSum:
    """Write a file and wait until the disk has it; see `write_tensors`."""
    return _write(path, [data])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU; tied weights are tied again.

    Raises:
        DamagedError: if it is not a complete safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        return tensors | {name: tensors[owner] for name, owner in metadata.items() if name != "format"}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedError(f"{path.name} is no whole safetensors file") from error


def check_size(path: Path, expected: FileSum) -> None:
    """Compare the size of a file with what was written.

    Raises:
        DamagedError: if it is missing, unreadable, or of another size.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DamagedError(f"{path.name} is missing") from None
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror}") from error
    if size != expected.bytes:
        raise DamagedError(f"{path.name} has {size} of {expected.bytes} bytes")


def check_sum(path: Path, expected: FileSum) -> None:
    """Compare every byte of a file with what was written, by size and checksum.

    Raises:
        DamagedError: if it is missing, unreadable, or different.
    """
    check_size(path, expected)
    try:
        with path.open("rb") as file:
            crc = 0
            while chunk := file.read(CHUNK):
                crc = zlib.crc32(chunk, crc)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror}") from error
    if f"{crc:08x}" != expected.crc32:
        raise DamagedError(f"{path.name} has another checksum than when it was written")


def sync_folder(path: Path) -> None:
    """Wait until the disk knows the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> FileSum:
    size = crc = 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            size, crc = size + len(piece), zlib.crc32(piece, crc)
        file.flush()
        os.fsync(file.fileno())
    arrived = path.stat().st_size
    if arrived != size:
        raise OSError(errno.EIO, f"only {arrived} of {size} bytes of {path.name} arrived")
    return FileSum(size, f"{crc:08x}")


def _bytes(tensor: Tensor) -> memoryview:
    """View the values of a tensor as bytes, in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
