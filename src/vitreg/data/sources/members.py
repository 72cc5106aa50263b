"""One member of a zip or tar archive as a file; its size is checked before it is read."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

from vitreg.data.sources.decode import Unreadable
from vitreg.data.sources.parts import os_reason

MAX_MEMBER_BYTES = 1 << 29
_IN_MEMORY = 1 << 25  # larger members are decoded from a temporary file
_MAX_READ = 1 << 27  # at once, of a zip archive: its directory, of which every image takes about 80 bytes
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class InTar:
    """A member of an uncompressed tar archive: a range of bytes in a file."""

    name: str
    archive: str
    offset: int
    size: int

    def file(self) -> BinaryIO:
        """Read the member. Raises Unreadable."""
        if self.size > MAX_MEMBER_BYTES:
            raise Unreadable(too_big(self.size, MAX_MEMBER_BYTES))
        try:
            archive = open(self.archive, "rb")  # noqa: SIM115  closed by whoever closes the member
            if os.fstat(archive.fileno()).st_size < self.offset + self.size:
                archive.close()
                raise Unreadable("truncated file")
            if self.size > _IN_MEMORY:
                return io.BufferedReader(_Stretch(archive, self.offset, self.size), _CHUNK)
            with archive:
                archive.seek(self.offset)
                data = archive.read(self.size)
        except OSError as error:
            raise Unreadable(os_reason(error)) from error
        return io.BytesIO(data)


class _Stretch(io.RawIOBase):
    """A range of bytes as a file, so that a large member is not loaded at once."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        self._file.seek(self._offset + self._place)
        data = self._file.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Sparing(io.BufferedReader):
    """A file that limits single reads, so that no header can request gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ:
            raise zipfile.BadZipFile(f"a directory of more than {_MAX_READ / 1e6:.0f} MB")
        return super().read(_MAX_READ if size is None or size < 0 else size)  # to its end: 64 kB where zipfile asks so


class OpenZip:
    """A zip archive that stays open. A forked process reopens it, as a shared descriptor would move the parent's
    position."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened = (os.getpid(), self._open())

    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(_Sparing(io.FileIO(self.path)))

    def members(self) -> list[zipfile.ZipInfo]:
        """List what is in it."""
        return self._opened[1].infolist()

    def read(self, member: zipfile.ZipInfo) -> BinaryIO:
        """Return a member as a file; several threads may ask."""
        process, archive = self._opened
        if process != os.getpid():
            archive = self._open()
            self._opened = (os.getpid(), archive)
        with archive.open(member) as source:
            return _copied(source, member.file_size)


@dataclass(frozen=True, slots=True)
class InZip:
    """A member of a zip archive."""

    name: str
    archive: OpenZip
    member: zipfile.ZipInfo

    def file(self) -> BinaryIO:
        """Read the member. Raises Unreadable."""
        if self.member.file_size > MAX_MEMBER_BYTES:
            raise Unreadable(too_big(self.member.file_size, MAX_MEMBER_BYTES))
        if self.member.flag_bits & 1:
            raise Unreadable("encrypted in the archive")
        if self.member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks these without a limit: 4 kB of bzip2 may become gigabytes.
            raise Unreadable("neither stored nor deflated in the archive")
        try:
            return self.archive.read(self.member)
        except Exception as error:  # a damaged archive makes zipfile and zlib raise nearly anything
            raise Unreadable(damaged(error)) from error


def _copied(source: IO[bytes], size: int) -> BinaryIO:
    """Copy at most `size` bytes piece by piece, so that unpacking is bounded."""
    file: Any = io.BytesIO() if size <= _IN_MEMORY else tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    while (missing := size - file.tell()) and (piece := source.read(min(missing, _CHUNK))):
        file.write(piece)
    file.seek(0)
    return file


def too_big(size: int, limit: int) -> str:
    """Say why a member of so many bytes is not read."""
    return f"{size / 1e6:.0f} MB in an archive, more than the limit of {limit / 1e6:.0f}"


def damaged(error: Exception) -> str:
    """Say in a few words what is wrong with an archive."""
    if isinstance(error, OSError) and error.errno is not None:
        return os_reason(error)
    detail = " ".join(str(error).split())[:120]
    return f"damaged archive ({detail})" if detail else "damaged archive"
