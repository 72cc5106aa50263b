"""Ctrl-C at the few moments when Python would lose it: while worker processes start or end, and in PyTorch's import."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator

from vitreg.machine.uncompiled import collector_paused


@contextlib.contextmanager
def interrupts_held() -> Generator[None, None, None]:
    """Delay Ctrl-C to the end of the block. Keep the block short.

    Python drops exceptions raised in fork hooks and in `__del__`: a Ctrl-C there would print a traceback and stop
    nothing. A process forked inside the block ignores Ctrl-C unless it sets its own handler.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield  # only the main thread gets Ctrl-C; without a Python handler there is nothing to delay
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held:
        usual(held[0], None)


def import_torch() -> None:
    """Import torch with Ctrl-C delayed: during its import of numpy, PyTorch swallows Ctrl-C and goes on without
    numpy."""
    with interrupts_held(), collector_paused():
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
