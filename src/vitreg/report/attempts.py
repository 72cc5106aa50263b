"""Drawing that cannot cost a result: a drawing that fails is listed with its reason, and the others are drawn."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vitreg.errors import UserError
from vitreg.records import Undrawn

T = TypeVar("T")


class Attempts:
    """Makes drawings one by one and lists those that failed.

    >>> attempts = Attempts()
    >>> chart = attempts("chart of the norms", lambda: norms_per_layer(result, 1040, 400))  # None where it fails
    >>> attempts.failed
    """

    def __init__(self) -> None:
        self.failed: list[Undrawn] = []

    def __call__(self, name: str, draw: Callable[[], T]) -> T | None:
        """Return the drawing, or None after adding its name to `failed`. Raises UserError as `noting` does."""
        with self.noting(name):
            return draw()
        return None

    @contextmanager
    def noting(self, name: str) -> Generator[None, None, None]:
        """Add the name to `failed` if the block fails.

        Raises:
            UserError: if the folder cannot be written, because then no drawing can be.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a bug of ours or of a library in one figure must not cost the others
            if name not in {each.name for each in self.failed}:
                self.failed.append(Undrawn(name=name, reason=reason_of(error)))


def reason_of(error: Exception) -> str:
    """Return a sentence on what went wrong and where, for a bug report."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" in {Path(last[0].filename).name}, line {last[0].lineno}" if last else ""
    words = " ".join(str(error).split())[:200]
    words = words.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{type(error).__name__}{place}{': ' if words else ''}{words}"
