"""What photos are called: each by its file, with as many of its folders as tell it from all others."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from vitreg.data.sources.images import ImageItem
from vitreg.data.sources.parts import OnDisk

Tail = tuple[str, ...]


class Names:
    """Names of photos, no two alike. A photo that is given twice, and two that nothing tells apart, are numbered: ``x.jpg (2)``.

    Args:
        known: the name and the identity of each photo that is known beforehand; see `identity`. Others may come later.
    """

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        first: dict[str, str] = {}
        for name, photo in known:
            first.setdefault(photo, name)
        parts = {photo: _parts(name) for photo, name in first.items()}
        tails = Counter(tail for each in parts.values() for tail in _tails(each))
        self._called = {photo: _shortest(each, tails) for photo, each in parts.items()}
        self._reserved, self._used = set(self._called.values()), set[str]()

    def call(self, name: str, photo: str) -> str:
        """Return what to call the next photo.

        Args:
            photo: its identity.
        """
        called = self._called.get(photo)
        if called is None:
            tails = ["/".join(tail) for tail in _tails(_parts(name))]
            called = next((tail for tail in tails if tail not in self._reserved), tails[-1])
            self._called[photo] = called
            self._reserved.add(called)
        free, number = called, 2
        while free in self._used or (number > 2 and free in self._reserved):
            free, number = f"{called} ({number})", number + 1
        self._used.add(free)
        return free


def identity(item: ImageItem) -> str:
    """Return what two photos share if they are the same file; of what is no file of its own, its name."""
    return os.path.abspath(item.locator.path) if isinstance(item.locator, OnDisk) else item.name


def _parts(name: str) -> Tail:
    return tuple(part for part in re.split(r"[/\\]", name) if part not in ("", ".")) or (name,)


def _tails(parts: Sequence[str]) -> list[Tail]:
    """Return the ends of a path, the shortest first."""
    return [tuple(parts[-length:]) for length in range(1, len(parts) + 1)]


def _shortest(parts: Tail, tails: Counter[Tail]) -> str:
    """Return the shortest end that no other path has; the whole path where it is the end of another."""
    return "/".join(next((tail for tail in _tails(parts) if tails[tail] == 1), parts))
