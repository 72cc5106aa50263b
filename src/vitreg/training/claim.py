"""Lock of a run's folder, for one process at a time; a run without a finished step restores the folder.

The lock is the kernel's (flock): it ends with the process, however that dies, so a killed run can be resumed at once.
The lock file names the holder; a file with that name and other content is not vitreg's, and is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Generator
from pathlib import Path

from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.training.journal import read_journal
from vitreg.writing.files import output_folder, printable
from vitreg.writing.ledger import LEDGER, LOCK, note_written, read_ledger

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PUBLISHED, JOURNAL, FOLDERS = ("config.json", "model.safetensors"), "metrics.jsonl", ("checkpoints", "tensorboard")
OURS = (*PUBLISHED, JOURNAL, *FOLDERS)
PATIENCE = 2.0  # seconds: a process just killed holds its lock until its memory is freed

_held: set[int] = set()  # file descriptors


def _let_go() -> None:
    """Close the lock in data workers: as forked copies they would hold it as long as they live."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Claim:
    """One process's lock on the folder of its run. Creates the folder.

    Attributes:
        notes: sentences for the user.
    Raises:
        UserError: if another process holds it, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, ()
        self._worth_keeping = False
        self._created = [path for path in (folder, *folder.parents) if not path.exists()]
        self._descriptor: int | None = None
        output_folder(folder)
        try:
            self._descriptor = _lock(folder)
        except _NoLocksError as error:
            self.notes = (
                f"{folder} is on a file system without locks ({error}); see to it that no other process trains there.",
            )
        # Only now: the previous holder may have written everything in it.
        self._before = {name for name in (*OURS, LEDGER) if os.path.lexists(folder / name)}

    def keep(self) -> None:
        """Keep the folder from now on: a step is finished."""
        self._worth_keeping = True

    def undo(self) -> None:
        """Remove the files of a run without a finished step. Without a lock they may belong to another run, and
        stay."""
        if self._worth_keeping:
            return
        if self._descriptor is not None:
            for name in set(OURS) - self._before:
                with contextlib.suppress(OSError, UserError):
                    _remove_begun(self.folder, name)
            if LEDGER not in self._before:
                _forget_the_gone(self.folder)
        self.release()
        for path in self._created:  # innermost first; stop at one that is not empty
            with contextlib.suppress(OSError):
                path.rmdir()

    def release(self) -> None:
        """Release the folder. Remove the file before unlocking: later it could be another process's."""
        if self._descriptor is None:
            return
        if _is_at(self._descriptor, self.folder / LOCK):
            (self.folder / LOCK).unlink(missing_ok=True)
        _held.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None


@contextlib.contextmanager
def claimed(folder: Path, group: Processes, check: Callable[[], object] = bool) -> Generator[Claim | None, None, None]:
    """Lock the folder of a run for the block; if it fails before a finished step, remove its files.

    Args:
        folder: of the run; created where it does not exist.
        group: the processes of the run; all call this, and the first holds the lock for them.
        check: called by the first, once it holds the lock; may refuse the folder with a UserError.
    Returns:
        the claim, in the first process; None in the others.
    Raises:
        UserError: in every process, if another run holds the folder, or it cannot be written.
    """
    claim: Claim | None = None
    refusal: UserError | None = None
    if group.first:
        try:
            claim = Claim(folder)
            check()
        except UserError as error:
            refusal = error
    refusal = group.gather(refusal)[0]
    if refusal is not None:
        if claim is not None:
            claim.undo()
        raise refusal
    try:
        if claim is None:
            output_folder(folder)
        yield claim
    except BaseException:
        if claim is not None:
            claim.undo()
        raise
    finally:
        if claim is not None:
            claim.release()


def _remove_begun(folder: Path, name: str) -> None:
    """Remove the files that a run writes before its first step, unless somebody replaced them meanwhile."""
    path = folder / name
    if name in PUBLISHED and read_ledger(folder).proves(name):
        path.unlink()
    elif name == JOURNAL and not path.is_symlink():
        records, others = read_journal(folder)
        if not others and all(record["step"] == 0 for record in records):
            path.unlink()
    elif name in FOLDERS and not path.is_symlink():
        for events in path.glob(f"events.out.tfevents.*.{socket.gethostname()}.{os.getpid()}.*"):
            events.unlink()
        path.rmdir()


def _forget_the_gone(folder: Path) -> None:
    """Remove the list of vitreg's files if none of them is left; another verb may have written meanwhile."""
    with contextlib.suppress(OSError, UserError):
        if (folder / LEDGER).is_file():
            note_written(folder, (), "train")  # drops removed files from the list
            if not read_ledger(folder).files:
                (folder / LEDGER).unlink()


class _NoLocksError(Exception):
    """A file system, or an operating system, that cannot lock."""


def _lock(folder: Path) -> int:
    """Take the lock of a folder; return the descriptor that holds it.

    Raises:
        UserError: if another process has it, or the file is not vitreg's.
    """
    if fcntl is None:
        raise _NoLocksError("no flock on this system")
    path, until = folder / LOCK, time.monotonic() + PATIENCE
    while True:
        output_folder(folder)  # the previous holder may have removed it
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:
            continue
        except OSError as error:
            if path.is_symlink() or path.is_dir():
                raise UserError(_foreign(path)) from error
            raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
        holder = _holder(descriptor)
        if holder is None:
            os.close(descriptor)
            raise UserError(_foreign(path))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the second from network file systems
            os.close(descriptor)
            if time.monotonic() > until:
                raise UserError(
                    f"{holder or 'another process'} is training in {folder}; wait until it ends, or stop it first."
                ) from None
            time.sleep(0.05)
            continue
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise _NoLocksError(error.strerror or str(error)) from None
        if _is_at(descriptor, path):
            _held.add(descriptor)
            with contextlib.suppress(OSError):  # on a full disk the file stays empty, but the lock holds
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # locked, but removed in between


def _holder(descriptor: int) -> str | None:
    """Return the holder named in a lock file, "" if it names none; None if the file is not vitreg's."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        return None
    text = os.pread(descriptor, 500, 0)
    ours = re.fullmatch(rb"process \d+ on \S*\n?", text)
    return printable(text.decode(errors="replace").strip()) if ours or not text else None


def _foreign(path: Path) -> str:
    return f"{path} is not the lock that vitreg keeps there; move it away."


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
