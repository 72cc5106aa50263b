"""What the settings of all tasks have in common: they can be checked before a model is loaded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Settings of a task: the flags of the command line, each with a docstring."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        return


def some(values: Sequence[float]) -> str:
    """Write numbers as a person types them; "none" where there are none."""
    return ", ".join(f"{value:g}" for value in values) or "none"
