"""Which process makes which shard: locks on single bytes of one file, which the system lifts when a process ends.

Nothing is left behind by a process that was killed, so there is nothing stale to be told from what is alive; over NFS
the locks hold between machines.
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

_SETUP = 0  # this byte is for store.json, byte i + 1 for shard i


class Claims:
    """Claims of this process on the shards of a folder; closing lifts them.

    Where the file system has no locks every claim succeeds: two processes may then do the same work, but as shards are
    replaced as a whole nothing is damaged. Of one process only one `Claims` at a time may be open on a folder.

    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # Record locks, unlike flock: not shared with the worker processes that are forked while they are held.
            self._file = os.open(folder / "claims", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}.") from error

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def take(self, shard: int) -> bool:
        """Claim a shard; False where another process has."""
        return self._lock(shard + 1, wait=False)

    def let_go(self, shard: int) -> None:
        """Lift the claim on a shard."""
        self._unlock(shard + 1)

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
