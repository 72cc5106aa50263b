"""Stop signals: Ctrl-C and SIGTERM end a run after the current step, with a checkpoint, on every process."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator

import torch
import torch.distributed as dist

AT_ONCE = 1.0  # seconds in which two SIGTERM are one


class Stop:
    """Whether this run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0

    def ask(self, number: int, _frame: object = None) -> None:
        """Remember the first signal; a second Ctrl-C or SIGTERM interrupts at once.

        One request may arrive as two SIGTERM: `timeout` signals the process and its group at the same moment; job
        schedulers signal torchrun and its processes, and torchrun passes it on and kills them after a while.
        """
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
        elif number == signal.SIGINT or (now - self._since > AT_ONCE and not dist.is_initialized()):
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_signals() -> Generator[Stop, None, None]:
    """Catch SIGTERM and Ctrl-C inside the block, and leave the handlers as they were.

    In a run of several processes, SIGTERM is ignored after the first request.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kept = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        if stop.signal and dist.is_initialized():
            # All processes exit now; when the first has left, torchrun sends SIGTERM to the others.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def agree(stop: Stop, finite: bool) -> tuple[int, bool]:
    """Agree over all processes whether any was asked to stop, and whether all values are finite.

    Returns:
        The signal (0 for none) and whether everything is finite everywhere; the same on every process.
    """
    word = torch.tensor([stop.signal or 0, int(not finite)])
    if dist.is_initialized():
        dist.all_reduce(word, op=dist.ReduceOp.MAX)
    return int(word[0]), not bool(word[1])
