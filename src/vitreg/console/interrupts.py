"""Ctrl-C at the few moments at which it would be lost: while worker processes are started or ended, and in PyTorch's import."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator


@contextlib.contextmanager
def interrupts_held() -> Generator[None, None, None]:
    """Hold Ctrl-C back inside the block; it counts at the end of it. What is inside should not take long.

    Python drops exceptions that are raised in hooks around fork, and in `__del__`: a Ctrl-C that comes then would go by
    with a traceback and stop nothing. A process forked inside the block never gets one, as long as it sets no handler of
    its own.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield  # only the main thread is interrupted, and where nobody listens nothing can be lost
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
    """Import it with Ctrl-C held back: PyTorch drops one that comes while it imports numpy, and goes on without numpy."""
    with interrupts_held():
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
