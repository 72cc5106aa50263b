"""The photos of verbs that look at a few: opened one by one, and those that cannot be read are listed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vitreg.data import ImageSource
from vitreg.data.sources.decode import Unreadable
from vitreg.errors import UserError
from vitreg.passes.given import source_of
from vitreg.records import Skipped
from vitreg.verbs.look.names import Names, identity

MIN_SIDE = 16  # pixels; the same for all models, so that all show the same photos


class Photos:
    """The first photos of what was given. Going through them yields (name, picture), once.

    Args:
        images: a path, a picture, or several; see `vitreg.passes.given`.
        limit: at most this many are opened.
        verb: whose photos they are, for its errors.

    Attributes:
        skipped: those that could not be read, so far.
        there: how many photos were named; None where their number is unknown.
    Raises:
        UserError: for no photos, paths that do not exist, and anything else but photos.
    """

    def __init__(self, images: Any, limit: int, verb: str) -> None:
        sources = _sources(images, verb)
        lengths = [source.length for source in sources]
        self.there = None if None in lengths else sum(each or 0 for each in lengths)
        self.skipped: list[Skipped] = []
        # A stream can be read once, so its photos get their names as they come.
        listed = itertools.chain.from_iterable(source for source in sources if source.length is not None)
        self._names = Names((item.name, identity(item)) for item in itertools.islice(listed, limit))
        self._left = self._readable(itertools.islice(itertools.chain.from_iterable(sources), limit))

    def refuse_none(self) -> None:
        """Open photos until one can be read. Raises UserError if none can."""
        first = next(self._left, None)
        if first is not None:
            self._left = itertools.chain([first], self._left)
            return
        reason = f"{self.skipped[0].name}: {self.skipped[0].reason}."
        raise UserError(
            f"none of the {len(self.skipped)} photos could be read; the first, {reason}"
            if len(self.skipped) > 1
            else f"{self.skipped[0].name} could not be read: {self.skipped[0].reason}."
        )

    def __iter__(self) -> Iterator[tuple[str, Image.Image]]:
        return self._left

    def _readable(self, items: Iterator[Any]) -> Iterator[tuple[str, Image.Image]]:
        for item in items:
            try:
                picture = item.open(MIN_SIDE)
            except Unreadable as error:
                self.skipped.append(Skipped(name=item.name, reason=error.reason))
                continue
            yield self._names.call(item.name, identity(item)), picture


def _sources(images: Any, verb: str) -> list[ImageSource]:
    """Sort what was given: pictures together, each path alone."""
    several = list(images) if isinstance(images, list | tuple) else [images]
    if not several:
        raise UserError("no photos given; name a file, a folder or a picture.")
    if not any(isinstance(each, str | Path) for each in several):
        return [source_of(images, verb)]
    return [source_of(each, verb) for each in several]
