"""Which process does which piece of work: locks on single bytes of one file. The system releases them when a process ends.

A killed process leaves no stale lock. Over NFS the locks also hold between machines.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

from vitreg.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SETUP = 0  # the byte of what is set up once; byte i + 1 is piece i


class Claims:
    """Claims of this process on pieces of the work in a folder, such as shards or jobs; closing releases them.

    On a file system without locks every claim succeeds. Two processes may then do the same work, which is harmless
    where results are replaced as a whole. A process may open only one `Claims` on a folder at a time.

    Args:
        name: of the file that is locked, and never written.
    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = "claims") -> None:
        try:
            # Record locks, because worker processes forked while a lock is held would inherit an flock.
            self._file = os.open(folder / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}.") from error

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def take(self, piece: int) -> bool:
        """Claim a piece, a number below 2^62; False if another process holds it."""
        return self._lock(piece + 1, wait=False)

    def let_go(self, piece: int) -> None:
        """Release the claim on a piece."""
        self._unlock(piece + 1)

    @contextlib.contextmanager
    def alone(self) -> Generator[None, None, None]:
        """Be the only process in this block."""
        self._lock(_SETUP, wait=True)
        try:
            yield
        finally:
            self._unlock(_SETUP)

    def _lock(self, byte: int, *, wait: bool) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: taken
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def _unlock(self, byte: int) -> None:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)
