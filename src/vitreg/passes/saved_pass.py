"""A pass over images that resumes after being killed: the sums so far and their images are saved now and then.

Each process keeps three files in a hidden folder of the results: the spill (norms of all tokens so far), the sums over a
prefix of the spill, and a mark that is locked while the process lives. Only a pass with the same weights, settings,
versions and images resumes from them. The mark is made first and removed last: files of these names without a mark, and
links, are not ours and are left alone.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import time
import zipfile
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vitreg.analysis.tally import Tally
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.passes.batches import Batches
from vitreg.records import Skipped
from vitreg.writing.files import replacing
from vitreg.writing.ledger import fcntl

FOLDER, SCHEMA = ".vitreg-scan", "vitreg.pass/1"
EVERY = 30.0  # seconds between two saves; a save takes about 0.1
STOPPED = "what was scanned is kept, and the same command goes on from it"
_OWN = re.compile(r"process-\d{5}-of-\d{5}\.(spill|sums|mark)")

ANEW = (
    "vitreg: what an interrupted scan kept here is of another model, of other images or settings, or damaged; "
    "this scan begins anew."
)


class SavedPass:
    """The files of one process. With `home` None nothing is saved and every pass begins anew."""

    def __init__(self, home: Path | None, group: Processes, identity: Mapping[str, Any] | None) -> None:
        self._identity = json.dumps(identity, sort_keys=True, default=str)
        self._home, self._mark, self.spill = home, None, None
        self._name = f"process-{group.rank:05d}-of-{group.world:05d}"
        self._saved_at = time.monotonic()
        if home is None or fcntl is None:
            return
        with contextlib.suppress(OSError):  # where the folder takes no lock the scan still runs, but is not saved
            home.mkdir(exist_ok=True)
            taken = any(os.path.lexists(self._path(ending)) for ending in ("spill", "sums"))
            self._mark = None if home.is_symlink() else _locked(self._path("mark"), new=not taken)
            if self._mark is not None:
                self.spill = os.fdopen(_own(self._path("spill")), "r+b")

    def restore(self, tally: Tally, batches: Batches) -> int:
        """Resume from the files of an earlier pass. Returns the number of images already done."""
        if self.spill is None:
            return 0
        state = self._read()
        if state is None:
            if self.kept:
                say(ANEW, error=True)
            self.spill.truncate(0)
            self._path("sums").unlink(missing_ok=True)
            return 0
        self.spill.truncate(int(state["spill"]))
        self.spill.seek(0, os.SEEK_END)
        tally.restore(state)
        skipped = [Skipped(**each) for each in json.loads(str(state["skipped"]))]
        batches.go_on(int(tally.order[-1]) + 1, skipped)
        return len(tally.names)

    def save(self, tally: Tally, batches: Batches, *, now: bool = False) -> None:
        """Save the sums if a save is due; call this between two batches."""
        if (
            self.spill is None
            or self.spill.closed
            or not tally.whole
            or (not now and time.monotonic() - self._saved_at < EVERY)
        ):
            return
        try:
            self.spill.flush()
            os.fsync(self.spill.fileno())  # the norms reach the disk before their sums
        except OSError as error:
            raise UserError(f"cannot keep the norms of the tokens: {error.strerror or error}.") from error
        skipped = json.dumps([each.model_dump() for each in batches.skipped])
        held = io.BytesIO()
        arrays: dict[str, Any] = {"identity": self._identity, "spill": self.spill.tell(), "skipped": skipped}
        np.savez_compressed(held, **arrays, **dict[str, Any](tally.state()))
        with replacing(self._path("sums")) as temporary:
            temporary.write_bytes(held.getvalue())
        self._saved_at = time.monotonic()

    @contextlib.contextmanager
    def kept_if_stopped(self, tally: Tally, batches: Batches) -> Generator[None, None, None]:
        """Save the sums, and say so, if the user interrupts the verdict or the page made from them."""
        try:
            yield
        except KeyboardInterrupt:
            self.save(tally, batches, now=True)
            raise KeyboardInterrupt(*[STOPPED] * self.kept) from None

    def remove(self) -> None:
        """Remove the files of this pass, and those of dead processes; call this once the result is written."""
        if self._home is None or self._mark is None:
            return
        self._close()
        for mark in self._home.glob("process-*.mark"):
            held = _locked(mark, new=False) if _OWN.fullmatch(mark.name) else None
            if held is None:
                continue
            drafts = self._home.glob(f".{mark.stem}.sums.*.part")
            for path in (*drafts, mark.with_suffix(".spill"), mark.with_suffix(".sums"), mark):
                if not path.is_symlink():
                    path.unlink(missing_ok=True)
            held.close()
        with contextlib.suppress(OSError):  # other processes still run, or the folder holds files of others
            self._home.rmdir()

    @property
    def kept(self) -> bool:
        """Whether there are saved sums to resume from."""
        return self.spill is not None and self._path("sums").exists()

    def _close(self) -> None:
        for file in (self.spill, self._mark):
            if file is not None:
                with contextlib.suppress(OSError):  # closing flushes, which fails on a full disk
                    file.close()

    def _path(self, ending: str) -> Path:
        assert self._home is not None
        return self._home / f"{self._name}.{ending}"

    def _read(self) -> dict[str, np.ndarray] | None:
        """The saved state, if it is complete and of the same pass."""
        try:
            with np.load(self._path("sums"), allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
            same = str(state["identity"]) == self._identity
            return state if same and self._path("spill").stat().st_size >= int(state["spill"]) else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None


@contextlib.contextmanager
def saved_pass(
    folder: Path | None, group: Processes, identity: Mapping[str, Any] | None
) -> Generator[SavedPass, None, None]:
    """Save a pass in a results folder. A user's mistake deletes the saved files; a failing or full disk does not."""
    saved = SavedPass(None if folder is None or identity is None else folder / FOLDER, group, identity)
    try:
        yield saved
    except UserError as error:
        fault = _fault_of_disk(error)
        if fault is not None and saved.kept:
            room = " once there is room" if fault.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise UserError(
                f"{error.sentence.rstrip('.')}; what was scanned is kept, and the same command goes on from it{room}."
            ) from error
        with contextlib.suppress(OSError):
            saved.remove()
        raise
    except KeyboardInterrupt:
        if not saved.kept:
            saved.remove()
        raise
    finally:
        saved._close()


def _fault_of_disk(error: BaseException) -> OSError | None:
    """Return the system error that caused an error, if there is one."""
    cause = error.__cause__
    return cause if cause is None or isinstance(cause, OSError) else _fault_of_disk(cause)


def _locked(path: Path, *, new: bool) -> IO[str] | None:
    """Open and lock a mark; None if another process holds it or has just removed it, or if the file is not ours.

    Args:
        new: whether a missing mark may be created; not where its spill or sums already exist.
    """
    assert fcntl is not None
    try:
        file = os.fdopen(_own(path, new=new), "r+", encoding="utf-8")
    except FileNotFoundError:
        if new:
            raise
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = file.read()
        if not text and new:
            file.write(json.dumps({"schema": SCHEMA}))
            file.flush()
        elif not text or json.loads(text) != {"schema": SCHEMA}:
            raise ValueError("not a mark of vitreg's")
    except (OSError, ValueError):
        file.close()
        return None
    return file


def _own(path: Path, *, new: bool = True) -> int:
    """Open a file for reading and writing without following links; create a missing one if `new`.

    Raises:
        OSError: if it is a link or has a second hard link, and so may belong to somebody else.
    """
    made = os.O_CREAT if new else 0
    descriptor = os.open(path, os.O_RDWR | made | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "it has another name")
    return descriptor
