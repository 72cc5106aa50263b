"""The members of a tar archive, header by header: one reader for shards on disk and for streams.

Headers are untrusted: sizes must not be negative, names and extended headers must be short, and a stream must not
unpack to far more than its size. So every walk ends, with one header in memory at a time.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_NAME_BYTES = 4096  # the longest path that Linux opens
_MAX_HEADER_BYTES = 1 << 20  # of an extended header; pax keeps access lists there
_MAX_DIGITS = 20
# A stream of images unpacks to little more than its size; a bomb, to a thousand times as much.
_MAX_RATIO, _UNSUSPECTED = 100, 1 << 28
_MAX_XZ_MEMORY = 1 << 28  # of its dictionary, which `xz -9` makes 64 MB
_PACKED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_WITHOUT_DATA = b"123456"  # links, devices, folders and pipes, whatever size their header has


class Member(NamedTuple):
    """A file inside a tar archive: a range of bytes. For a sparse file these are not its content."""

    name: str
    offset: int
    size: int
    sparse: bool = False


class CutShort(Exception):  # noqa: N818  the reason is its point, not a failure
    """The archive ends, or stops making sense, before its end mark."""


class NoEndMark(CutShort):
    """The last member is complete, but the end mark is missing."""


class Forward:
    """A file, compressed or not, that is read from front to back only.

    Args:
        read: returns at most as many bytes as asked for, none at the end.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        source = _Counted(read)
        self.position = 0
        self._source, self._read = source, _unpacking(source)

    def read(self, size: int) -> bytes:
        """Read `size` bytes, fewer only at the end. Raises CutShort if it unpacks to absurdly much."""
        pieces, missing = [], size
        while missing and (piece := self._read(min(missing, _CHUNK))):
            pieces.append(piece)
            missing -= len(piece)
            self.position += len(piece)
            if self.position > _UNSUSPECTED and self.position > _MAX_RATIO * self._source.taken:
                raise CutShort(f"unpacks to more than {_MAX_RATIO} times its size")
        return b"".join(pieces)

    def seek(self, position: int) -> int:
        """Read on to a position that has not been passed yet, or to the end."""
        while self.position < position and self.read(min(position - self.position, _CHUNK)):
            pass
        return self.position


def packing(start: bytes) -> str | None:
    """Tell from its first bytes how a file is compressed: gz, bz2, xz, zst or not at all."""
    return next((kind for mark, kind in _PACKED.items() if start.startswith(mark)), None)


def walk_tar(file: BinaryIO | Forward) -> Iterator[Member]:
    """Yield the regular files of a tar archive in order. The consumer may move the position, forward in a stream.

    Incomplete members of a file are left out; in a stream the consumer sees whether one is complete.

    Raises:
        CutShort: after the last readable member, if no end mark follows it.
    """
    end = None if isinstance(file, Forward) else file.seek(0, 2)
    position = needed = 0
    name, size, sparse = None, None, False  # said by an extended header about the next member
    while True:
        reached = file.seek(position)
        header = file.read(_BLOCK)
        if len(header) == _BLOCK and not any(header):
            return
        if len(header) < _BLOCK:
            whole = not header and position and reached >= needed
            raise NoEndMark("ends without an end mark") if whole else CutShort("is cut short")
        if not _checks(header):
            raise CutShort("is damaged" if position else "is no tar archive")
        kind, length, start = header[156:157], _number(header[124:136]), position + _BLOCK
        if kind in b"gK":  # of the whole archive, and of a link: nothing here needs them
            needed, position = start + length, start + -(-length // _BLOCK) * _BLOCK
            continue
        if kind in b"xL":
            if length > (_MAX_NAME_BYTES if kind == b"L" else _MAX_HEADER_BYTES):
                raise CutShort(f"has a {'name' if kind == b'L' else 'header'} of {length} bytes")
            text = file.read(length)
            if kind == b"L":
                name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                name, size, sparse = _extended(text, name, size)
        else:
            if kind == b"S":
                start = _behind_the_map(file, header, start)
            length = 0 if kind in _WITHOUT_DATA else length if size is None else size
            if end is not None and start + length > end:
                raise CutShort("is cut short")
            found = name or _name(header)
            if kind in b"0\0007S" and not found.endswith("/"):
                yield Member(found, start, length, sparse or kind == b"S")
            name, size, sparse = None, None, False
        needed = start + length
        position = start + -(-length // _BLOCK) * _BLOCK


def _checks(header: bytes) -> bool:
    """Whether the header's checksum is right, computed with its own field as spaces.

    Some old programs took bytes as signed.
    """
    said = _octal(header[148:156])
    found = sum(header) - sum(header[148:156]) + 8 * 32
    return said == found or said == found - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _octal(digits: bytes) -> int | None:
    """Read an octal number; None for anything but digits (`int` would also accept a sign)."""
    digits = digits.strip(b" \0")
    return int(digits or b"0", 8) if not digits.strip(b"01234567") else None


def _number(digits: bytes) -> int:
    # A first byte of 0x80 is GNU's way to write what 11 octal digits cannot hold; 0xff, a negative number.
    number = int.from_bytes(digits[1:], "big") if digits[0] == 0x80 else _octal(digits)
    if number is None:
        raise CutShort("is damaged")
    return number


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _extended(text: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None, bool]:
    """Read a pax header for the next member: records "LENGTH KEY=VALUE\\n", where LENGTH is that of the whole
    record."""
    sparse, position = False, 0
    while position < len(text) and text[position]:
        digits = text[position : position + _MAX_DIGITS].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        record = text[position : position + length]
        if not record.endswith(b"\n"):
            raise CutShort("is damaged")
        key, _, value = record[len(digits) + 1 : -1].partition(b"=")
        if key == b"path":
            if len(value) > _MAX_NAME_BYTES:
                raise CutShort(f"has a name of {len(value)} bytes")
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > _MAX_DIGITS:
                raise CutShort("is damaged")
            size = int(value)
        sparse |= key.startswith(b"GNU.sparse.")
        position += length
    return name, size, sparse


def _behind_the_map(file: BinaryIO | Forward, header: bytes, start: int) -> int:
    """Return where the data of a sparse member in GNU's old format begin: after the blocks that list its holes."""
    more = header[482]
    while more:
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise CutShort("is cut short")
        more, start = block[504], start + _BLOCK
    return start


class _Counted:
    """Counts what is read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._more, self._start, self.taken = read, b"", 0

    def read(self, size: int = -1) -> bytes:
        size = size if 0 <= size <= _CHUNK else _CHUNK
        data, self._start = (self._start[:size], self._start[size:]) if self._start else (self._more(size), b"")
        self.taken += len(data)
        return data

    def peek(self, size: int) -> bytes:
        while len(self._start) < size and (data := self._more(size - len(self._start))):
            self._start += data
        return self._start


def _unpacking(source: _Counted) -> Callable[[int], bytes]:
    """Return what reads a stream unpacked, never more than asked for at a time."""
    kind, file = packing(source.peek(6)), _cast(source)
    if kind == "gz":
        return gzip.GzipFile(fileobj=file).read
    if kind == "bz2":
        return bz2.BZ2File(file).read
    if kind == "zst":
        raise CutShort("is compressed with zstd, which is not read here")
    return _Xz(source.read).read if kind == "xz" else source.read


def _cast(source: _Counted) -> Any:
    return source  # a file as far as gzip and bz2 look at one


class _Xz:
    """`lzma.LZMAFile` with a memory limit: the first bytes of a file may demand 4 GB."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._more = read
        self._decoder = lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        data = b""
        while not data and size:
            if self._decoder.eof:  # of one of several behind one another
                rest = self._decoder.unused_data.lstrip(b"\0")
                while not rest:
                    if not (more := self._more(_CHUNK)):
                        return b""
                    rest = more.lstrip(b"\0")
                self._decoder = lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)
            else:
                rest = self._more(_CHUNK) if self._decoder.needs_input else b""
                if not rest and self._decoder.needs_input:
                    raise EOFError("ends before its end mark")
            data = self._decoder.decompress(rest, size)
        return data
