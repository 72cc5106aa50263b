"""`version`: prints the version."""

from __future__ import annotations

from dataclasses import dataclass

from vitreg import __version__


@dataclass(frozen=True)
class Version:
    """Print the version."""

    def check(self) -> None:
        """Nothing to refuse."""

    def __call__(self) -> int:
        """Print it. Returns the exit code."""
        print(f"vitreg {__version__}")
        return 0
