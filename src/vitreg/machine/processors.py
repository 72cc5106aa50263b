"""How many processors there are. No torch here."""

from __future__ import annotations

import os


def processors() -> int:
    """Return how many processors this process may use, where the system says it, else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
