"""What is sent names no place of this machine: of a path its last part stays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Discretion:
    """Shortens the paths in what is sent.

    Args:
        words: names and specs of models, folders of repairs and whatever else may hold a path, such as `run:runs/first`.
    """

    def __init__(self, words: Iterable[str]) -> None:
        named = {path: Path(path).name for word in words for path in _paths_in(word)}
        for folder in (os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir()):  # of what nobody named
            if folder != os.sep:
                named.setdefault(folder + os.sep, "")
        self._shorter = sorted(named.items(), key=lambda pair: -len(pair[0]))

    def __call__(self, text: str) -> str:
        """Return a text with its paths shortened."""
        for path, last in self._shorter:
            text = text.replace(path, last)
        return text

    def throughout(self, content: Any) -> Any:
        """Return lists and dictionaries with all their texts shortened, but for packed arrays and pictures."""
        if isinstance(content, str) and not content.startswith("data:"):
            return self(content)
        if isinstance(content, list):
            return [self.throughout(each) for each in content]
        if isinstance(content, dict) and "data" not in content:
            return {name: self.throughout(each) for name, each in content.items()}
        return content


def _paths_in(word: str) -> Iterator[str]:
    """Yield what of a word is the path of something that exists, as it is written and in full."""
    parts = word.split(":")
    for first in range(len(parts)):
        path = ":".join(parts[first:])
        if os.sep in path and os.path.exists(os.path.expanduser(path)):
            yield from {path, os.path.abspath(os.path.expanduser(path)), os.path.realpath(os.path.expanduser(path))}
