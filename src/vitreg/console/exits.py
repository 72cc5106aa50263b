"""The exit codes of every verb, as numbers here only. docs/terminal.md has the table."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes. 1 is Python's own, for a fault of vitreg itself, with a traceback."""

    DONE = 0
    """Finished; the result is where the last line says."""
    MISTAKE = 2
    """A name, setting, file or stream that does not work; one sentence on standard error says which."""
    OVER_BUDGET = 3
    """`scan --fail-above`: more outliers than allowed, the result is written. `fix auto`: no repair helps within the damage
    allowed."""
    NOTHING_TO_REPAIR = 4
    """A repair was asked for and the model has no artifacts."""
    PROBLEM_FOUND = 5
    """`doctor` found a problem: the model does not do what it is meant to."""
    INTERRUPTED = 130
    """Ctrl-C; standard error says what was kept."""
    TERMINATED = 143
    """SIGTERM while training; a checkpoint was written first."""
