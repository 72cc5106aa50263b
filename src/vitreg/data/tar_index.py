"""Where the members of a tar archive lie, and which of them make up the samples of a WebDataset shard.

Headers are read and the bytes between them passed over, several times faster than by `tarfile`. A shard that was cut
short gives its readable part and says so.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int64

from vitreg.data.archives import _images_of, _key
from vitreg.data.example import Strings
from vitreg.data.parts import os_reason
from vitreg.errors import UserError

_BLOCK = 512
_MAX_TEXT_BYTES = 1 << 20
_PAX = re.compile(rb"\d+ (path|size)=([^\n]*)\n")
_TEXTS = {True: (".txt", ".json"), False: (".cls", ".json")}


class Member(NamedTuple):
    """A file inside a tar archive: a stretch of bytes."""

    name: str
    offset: int
    size: int


class CutShort(Exception):  # noqa: N818  the reason is its point, not a failure
    """The archive ends, or stops making sense, before its end mark."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of one shard.

    Args:
        names: of their images.
        images: (offset, size) of each image.
        texts: (offset, size) of the member that holds the class or the caption; size -1 where there is none.
        json: whether that member is a .json.
        classes: contents of the .cls or .json members, where classes were asked for.
        loss: why the shard was not read to its end, if it was not.
    """

    names: Strings
    images: Int64[np.ndarray, "n 2"]
    texts: Int64[np.ndarray, "n 2"]
    json: np.ndarray
    classes: list[str] | None
    loss: str | None


def index_shard(path: str, *, captions: bool) -> ShardIndex:
    """Find the samples of a shard.

    Args:
        captions: look for captions (.txt, else .json) beside the images instead of classes (.cls, else .json).
    Raises:
        UserError: if the file cannot be read, or is compressed or no tar archive at all.
    """
    names: list[str] = []
    images: list[tuple[int, int]] = []
    texts: list[tuple[int, int]] = []
    json: list[bool] = []
    classes: list[str] = []
    loss = None
    try:
        with open(path, "rb") as file:
            members = _until_cut(file)
            for _, sample in itertools.groupby(members, key=lambda member: member and _key(member.name)[0]):
                held = {member.name: member for member in sample if member is not None}
                found = _text_of(held, captions=captions)
                content = "" if captions or found is None else _content(file, found)
                for name in _images_of(list(held)):
                    names.append(name)
                    images.append(held[name][1:])
                    texts.append(found[1:] if found else (0, -1))
                    json.append(found is not None and found.name.lower().endswith(".json"))
                    classes.append(content)
    except CutShort as cut:
        loss = str(cut)
    except OSError as error:
        raise UserError(f"cannot read the shard '{path}': {os_reason(error)}.") from error
    if loss is not None and not names:
        with open(path, "rb") as file:
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        hint = (
            "is compressed, which leaves no way to read it in any order; unpack it to a plain .tar" if packed else loss
        )
        raise UserError(f"the shard '{path}' {hint}.")
    shape = (len(names), 2)
    return ShardIndex(
        Strings(names), np.array(images, np.int64).reshape(shape), np.array(texts, np.int64).reshape(shape),
        np.array(json, bool), None if captions else classes, loss,
    )  # fmt: skip


def walk_tar(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of a plain tar archive in order. The consumer may move the file's position.

    Raises:
        CutShort: after the last readable member, if no end mark follows it.
    """
    end = file.seek(0, 2)
    position = 0
    name, size = None, None  # said by an extended header about the next member
    while True:
        file.seek(position)
        header = file.read(_BLOCK)
        if len(header) == _BLOCK and not any(header):
            return
        if len(header) < _BLOCK:
            raise CutShort("ends without an end mark" if not header and position else "is cut short")
        if not _checks(header):
            raise CutShort("is damaged" if position else "is no tar archive")
        kind, length = header[156:157], _number(header[124:136])
        start = position + _BLOCK
        if kind in b"xL":
            extension = file.read(length) if length <= _MAX_TEXT_BYTES else b""
            name, size = _extended(kind, extension, name, size)
        else:
            length = length if size is None else size
            if start + length > end:
                raise CutShort("is cut short")
            if kind in b"0\0" and not (name or _name(header)).endswith("/"):
                yield Member(name or _name(header), start, length)
            name, size = None, None
        position = start + -(-length // _BLOCK) * _BLOCK


def read_text(path: str, offset: int, size: int) -> str:
    """Read a small member. Raises OSError."""
    with open(path, "rb") as file:
        return _content(file, Member("", offset, size))


def _until_cut(file: BinaryIO) -> Iterator[Member | None]:
    """Yield None before a cut, so that the sample before it is complete as far as it can be."""
    try:
        yield from walk_tar(file)
    except CutShort:
        yield None
        raise


def _text_of(sample: dict[str, Member], *, captions: bool) -> Member | None:
    by_extension = {_key(name)[1]: member for name, member in sample.items()}
    return next((by_extension[text] for text in _TEXTS[captions] if text in by_extension), None)


def _content(file: BinaryIO, member: Member) -> str:
    file.seek(member.offset)
    text = file.read(min(member.size, _MAX_TEXT_BYTES)).decode("utf-8", "replace").strip()
    return sys.intern(text) if len(text) < 64 else text  # a million samples share a thousand classes


def _checks(header: bytes) -> bool:
    """Whether the sum of the header's bytes, its own checksum taken as spaces, is what it says."""
    try:
        return sum(header) - sum(header[148:156]) + 8 * 32 == int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False


def _number(digits: bytes) -> int:
    if digits[0] & 0x80:  # GNU's way to write what 11 octal digits cannot hold
        return int.from_bytes(digits[1:], "big")
    try:
        return int(digits.strip(b" \0") or b"0", 8)
    except ValueError:
        raise CutShort("is damaged") from None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _extended(kind: bytes, data: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Read what a pax ("x") or GNU ("L") header says of the next member."""
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), size
    for key, value in _PAX.findall(data):
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif value.isdigit():
            size = int(value)
    return name, size
