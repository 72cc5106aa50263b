"""Where images come from: files, folders, globs, list files, zip and tar archives, WebDataset shards, as one sequence.

Nothing is decoded until an image is opened; an unreadable image gives a reason and does not stop the rest.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from vitreg.data.sources.archives import is_url
from vitreg.data.sources.content import digest, digest_of_pixels
from vitreg.data.sources.decode import decode
from vitreg.data.sources.listing import find
from vitreg.data.sources.parts import Listed, Locator, OnDisk, Part
from vitreg.data.sources.pictures import InMemory, Pictures
from vitreg.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image of a source, not read yet.

    Args:
        index: position in the whole source, the same on every rank.
        name: the path, printable; `archive/member` inside archives.
        locator: where the bytes are.
    """

    index: int
    name: str
    locator: Locator

    def open(self, min_side: int = 1) -> Image.Image:
        """Decode to an RGB picture, upright and opaque.

        Args:
            min_side: a picture that fits into a square of this many pixels is refused.
        Raises:
            Unreadable: with a short reason.
        """
        return self.reduce(lambda image: image, min_side)

    def reduce(self, function: Callable[[Image.Image], T], min_side: int = 1) -> T:
        """Decode and return `function(picture)`; very large pictures pass one at a time, to bound memory.

        Raises:
            Unreadable: with a short reason.
        """
        return self.reduced(function, min_side)[0]

    def reduced(self, function: Callable[[Image.Image], T], min_side: int = 1) -> tuple[T, bytes | None]:
        """Decode and return `function(picture)`, and the SHA-256 of the file's bytes, or of the pixels of a picture in memory.

        Raises:
            Unreadable: with a short reason.
        """
        if isinstance(self.locator, InMemory):
            return self.locator.reduce(lambda image: (function(image), digest_of_pixels(image)), min_side)
        with self.locator.file() as file:
            return decode(file, function, min_side=min_side), digest(file)


class ImageSource:
    """All images of the given paths in a stable order: the order of the paths, sorted inside folders and globs.

    A path is an image file, a folder (searched recursively; hidden files, files without an image's extension and links to
    other folders are passed over), a glob, a list file (.txt or .lst: one image file per line, relative to the list), a .zip or
    .tar[.gz|.bz2|.xz] archive, or WebDataset shards: a path or URL, with braces such as `shards/{000..009}.tar`, where
    http(s)://, `pipe:` and the like are opened by the webdataset package. In a tar, members that share a key are one
    sample with one image. Archives inside folders stay closed; name them. `synthetic:scenes[@SEED][:COUNT]` draws them.

    Args:
        paths: at least one.
    Attributes:
        notes: sentences on what was left out.
    Raises:
        UserError: if a path does not exist, or a folder, archive or list holds no image at all.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        if isinstance(paths, str | Path):
            paths = [paths]
        self._hold([str(path) for path in paths], [part for path in paths for part in find(str(path))])

    @classmethod
    def of_pictures(cls, items: Sequence[Any]) -> ImageSource:
        """Use pictures in memory, or the items of a dataset, instead of files.

        Raises:
            UserError: if there are none.
        """
        source = cls.__new__(cls)
        source._hold([], [Pictures(items)] if len(items) else [])
        return source

    def _hold(self, paths: list[str], parts: list[Part]) -> None:
        self._paths, self._parts = paths, parts
        if not self._parts:
            raise UserError("no images given; name a file, a folder or an archive.")
        # Start of each part, up to the first part of unknown length.
        self.notes = tuple(note for part in self._parts if isinstance(part, Listed) for note in part.notes)
        lengths = itertools.takewhile(lambda length: length is not None, (part.length for part in self._parts))
        self._starts = list(itertools.accumulate((length for length in lengths if length is not None), initial=0))

    def __len__(self) -> int:
        """Return how many images there are, unreadable ones included. Raises TypeError for shards behind a URL."""
        if len(self._starts) <= len(self._parts):
            raise TypeError("the number of images behind a URL is known at the end only")
        return self._starts[-1]

    @property
    def length(self) -> int | None:
        """`len`, or None if not known in advance."""
        return self._starts[-1] if len(self._starts) > len(self._parts) else None

    def fingerprint(self) -> str:
        """A hash of the images' locations: paths as given and, for files, names, sizes and modification times."""
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{path} {_stamp(path)}\0".encode("utf-8", "surrogateescape"))
        digest.update("".join(self.notes).encode("utf-8", "surrogateescape"))
        for part in self._parts:
            for locator in part.locators if isinstance(part, Listed) else ():
                stamp = _stamp(locator.path) if isinstance(locator, OnDisk) else ""
                digest.update(f"{locator.name} {stamp}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def in_memory(self) -> bool:
        """Whether the pictures are in memory or come from a dataset: only their pixels identify them."""
        return any(isinstance(part, Pictures) for part in self._parts)

    @property
    def behind_urls(self) -> bool:
        """Whether some are behind URLs: for these a fingerprint covers the path, not the content."""
        return any(is_url(path) for path in self._paths)

    def __getitem__(self, index: int) -> ImageItem:
        """Return one image again. Raises TypeError for an image behind a URL: such images come in order only."""
        if index < 0 or (self.length is not None and index >= self.length):
            raise IndexError(f"image {index} of {self.length}")
        part = bisect.bisect_right(self._starts, index) - 1
        # Empty parts share their start with the next; bisect_right has passed over them.
        locator = self._parts[part].locate(index - self._starts[part])
        return ImageItem(index, locator.name, locator)

    def __iter__(self) -> Iterator[ImageItem]:
        """Yield every image in order."""
        return self.walk()

    def walk(self, rank: int = 0, world: int = 1) -> Generator[ImageItem, None, None]:
        """Yield the images with index % world == rank, in order.

        Images of a compressed tar or a URL hold their bytes: drop each before the next.
        """
        start = 0
        for part in self._parts:
            length = part.length
            # Every image of a stream must be counted, so that later ones have the same index on every rank.
            first, step = (0, 1) if length is None else ((rank - start) % world, world)
            index = -1
            with closing(part.walk(first, step)) as images:
                for index, locator in images:
                    if (start + index) % world == rank:
                        yield ImageItem(start + index, locator.name, locator)
            start += index + 1 if length is None else length


def _stamp(path: str) -> str:
    """Size and modification time of a file; nothing for a folder, whose time changes when results are written into
    it."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else ""
