"""The place of an image's bytes (`Locator`), and runs of images in a known order (`Part`)."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from vitreg.data.sources.decode import Unreadable
from vitreg.writing.files import printable


class Locator(Protocol):
    """One image: `name` for people, `file()` for its bytes."""

    @property
    def name(self) -> str:
        """The path, for people."""
        ...

    def file(self) -> BinaryIO:
        """Open the bytes for reading. Raises Unreadable."""
        ...


class Part(Protocol):
    """A run of images that belong together: plain files, or the members of one archive."""

    @property
    def length(self) -> int | None:
        """Number of images, None if only the end tells."""
        ...

    def locate(self, index: int) -> Locator:
        """Return one image, at any place, in any order."""
        ...

    def walk(self, first: int, step: int) -> Generator[tuple[int, Locator], None, None]:
        """Yield (index, image) for the indices first, first + step, ... in order."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """An image known to be unreadable."""

    name: str
    reason: str

    def file(self) -> BinaryIO:
        """Raise Unreadable with the reason."""
        raise Unreadable(self.reason)


@dataclass(frozen=True, slots=True)
class Held:
    """An image whose encoded bytes are in memory."""

    name: str
    data: bytes

    def file(self) -> BinaryIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.data)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """An image file."""

    name: str
    path: str

    def file(self) -> BinaryIO:
        """Open the file. Raises Unreadable for anything but a regular file: opening a named pipe would wait for
        ever."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise Unreadable("not a regular file")
            return open(self.path, "rb")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise Unreadable(os_reason(error)) from error


class Listed:
    """Images that can be read at any place: files, members of zip and of uncompressed tar archives.

    Args:
        notes: sentences on what was left out.
    """

    def __init__(self, locators: Sequence[Locator], notes: tuple[str, ...] = ()) -> None:
        self.locators, self.notes = locators, notes

    @property
    def length(self) -> int:
        """How many images."""
        return len(self.locators)

    def locate(self, index: int) -> Locator:
        """Return one image."""
        return self.locators[index]

    def walk(self, first: int, step: int) -> Generator[tuple[int, Locator], None, None]:
        """Yield (index, image) from `first` on in steps of `step`."""
        return ((i, self.locators[i]) for i in range(first, len(self.locators), step))


def label(name: str) -> str:
    """Make a name fit for JSON: file names on Linux may hold bytes that are no text."""
    return printable(name)


def os_reason(error: Exception) -> str:
    """Say in a few words why a file cannot be opened."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    return (error.strerror or "cannot be opened").lower() if isinstance(error, OSError) else "no such file"
