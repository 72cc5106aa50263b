"""The base of all task settings: they are checked before a model is loaded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitreg.passes.keywords import Fitted


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Fitted):
    """Settings of a task: the flags of the command line, each with a docstring."""

    # No annotation: annotated, these would be flags.
    title = ""
    """The task's name on a page; its name on the command line if empty."""
    measured = ""
    """The headline as a sentence with {value}. {judged} is the number of test images, {name} the metric."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        return


def some(values: Sequence[float]) -> str:
    """Format numbers as typed on the command line; "none" for an empty list."""
    return ", ".join(f"{value:g}" for value in values) or "none"
