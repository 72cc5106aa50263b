"""Drawing that never costs a result: what cannot be drawn is named with its reason, and everything else is drawn."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vitreg.errors import UserError
from vitreg.records import Undrawn

T = TypeVar("T")


class Attempts:
    """Draws one thing after another and keeps account of what failed.

    >>> attempts = Attempts()
    >>> chart = attempts("chart of the norms", lambda: norms_per_layer(result, 1040, 400))  # None where it fails
    >>> attempts.failed
    """

    def __init__(self) -> None:
        self.failed: list[Undrawn] = []

    def __call__(self, name: str, draw: Callable[[], T]) -> T | None:
        """Return what `draw` draws, or None after naming it among `failed`.

        Raises:
            UserError: a folder that cannot be written stops everything drawn into it, so this is passed on.
        """
        try:
            return draw()
        except UserError:
            raise
        except Exception as error:  # a fault of ours or of a library in one figure must not cost the others
            if name not in {each.name for each in self.failed}:
                self.failed.append(Undrawn(name=name, reason=reason_of(error)))
            return None


def reason_of(error: Exception) -> str:
    """Say in a sentence what went wrong and where, so that it can be reported."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" in {Path(last[0].filename).name}, line {last[0].lineno}" if last else ""
    words = " ".join(str(error).split())[:200]
    words = words.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{type(error).__name__}{place}{': ' if words else ''}{words}"
