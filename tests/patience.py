"""How tests wait: for something to happen, never for a time to pass, and no longer than `PATIENCE`.

That is far above what anything here takes on a machine with nothing to spare, so it ends only what hangs.
"""

from __future__ import annotations

import multiprocessing.process
import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0  # seconds


def until(condition: Callable[[], Any], process: subprocess.Popen | multiprocessing.process.BaseProcess | None = None):
    """Wait until a condition holds, and return what it gave.

    Args:
        process: the one that is to bring it about; once it has ended, the condition is looked at a last time.
    """
    end = time.monotonic() + PATIENCE
    while True:
        over = process is not None and _ended(process)
        found = condition()
        if found:
            return found
        assert not over, f"{process} ended before {condition} was true"
        assert time.monotonic() < end, f"{condition} was never true"
        time.sleep(0.01)


def _ended(process: subprocess.Popen | multiprocessing.process.BaseProcess) -> bool:
    return (process.poll() if isinstance(process, subprocess.Popen) else process.exitcode) is not None
