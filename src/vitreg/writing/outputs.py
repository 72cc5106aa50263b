"""How every verb writes: into a staging folder, then moved into place, and only over files that vitreg wrote.

`Outputs.check` refuses before any work is done. `Outputs.publish` writes into a hidden staging folder and moves complete
files into place, the record last; `Outputs.adding` does so with what a block writes beside it. The next run in that
folder finishes the moves of a killed run, or removes its staging folder. `vitreg.writing.ledger` knows who wrote which
file.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.records import Record
from vitreg.writing.files import for_others
from vitreg.writing.ledger import (
    LEDGER,
    Ledger,
    Written,
    alone,
    fcntl,
    is_inside,
    is_still,
    read_ledger,
    through_link,
    write_ledger,
    written,
)

PREFIX, MARK, PLAN, NEW = ".part-", "vitreg", "plan.json", "new"
RECORD = "result.json"  # moved last: if it exists, so do the others
ELSEWHERE = "move it away, or name another place with --out"


class Moves(Record):
    """Files to move into place. Written to disk once all are complete, so that another process can finish the moves."""

    files: dict[str, Written]
    stale: list[str]


class Stage:
    """A hidden staging folder inside the output folder, locked by this process.

    Attributes:
        path: where new files are written, under their final names.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        self.path = self.home / NEW
        try:
            self._mark = (self.home / MARK).open("w", encoding="utf-8")
            json.dump({"schema": "vitreg.part/1", "pid": os.getpid(), "host": socket.gethostname()}, self._mark)
            self._mark.flush()
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(self._mark, fcntl.LOCK_EX)
            self.path.mkdir()
        except OSError:  # without its mark nobody could tell that vitreg made it
            shutil.rmtree(self.home, ignore_errors=True)
            raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def exists(self) -> bool:
        """Whether it still exists: people delete folders while runs write to them."""
        return self.path.is_dir()

    def close(self) -> None:
        """Unlock and remove it, unless its files are being moved into place."""
        if not (self.home / PLAN).exists():
            shutil.rmtree(self.home, ignore_errors=True)
        self._mark.close()


class Outputs:
    """The files of one verb in one folder.

    Args:
        folder: where they go.
        verb: the writer; files of other verbs are never replaced.
        names: what will be written, as far as known; folders end with a slash.
        inputs: files and folders that are read; none may be replaced.
        earlier: which other files of an earlier result are removed if they are not written again.
    """

    def __init__(
        self, folder: Path, verb: str, names: Sequence[str], inputs: Iterable[object] = (),
        earlier: Callable[[str], bool] = lambda name: False,
    ) -> None:  # fmt: skip
        self.folder, self.verb, self.names, self.earlier = folder, verb, tuple(names), earlier
        self.inputs = [Path(each).expanduser() for each in inputs if isinstance(each, str | Path)]
        self._published: dict[str, Written] = {}
        self._moved: UserError | None = None  # raised at the end if the result was written elsewhere

    def check(self) -> None:
        """Make sure, before any work is done, that only files of earlier runs will be replaced.

        Raises:
            UserError: if another file has one of the names, or an input would be replaced.
        """
        finish_left(self.folder)
        ledger = read_ledger(self.folder)
        for given in self.inputs:
            self._refuse_input(given, ledger)
        for name in self.names:
            why = ledger.why_taken(name, self.verb)
            if why is not None:
                raise UserError(f"{why}; {ELSEWHERE}.")

    def beside_complete(self) -> Outputs:
        """Return the folder for an interrupted run's result: a new one if this one holds a complete result.

        Raises:
            UserError: if no folder can be made beside it.
        """
        try:
            complete = parse_json((self.folder / RECORD).read_bytes())["images"]["interrupted"] is False
        except (OSError, ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            return self
        try:
            return Outputs(_beside(self.folder), self.verb, self.names)
        except OSError as error:
            raise UserError(
                f"{self.folder} holds a complete result, which stays; {_plain(self.folder, error)}"
            ) from error

    def stage(self) -> Stage:
        """Create a staging folder for files that are written early. The caller must close it.

        Raises:
            UserError: if the folder cannot be written.
        """
        try:
            return Stage(self.folder)
        except OSError as error:
            raise _plain(self.folder, error) from error

    def publish(
        self,
        write: Callable[[Path], object],
        *,
        stage: Stage | None = None,
        more: bool = False,
    ) -> None:
        """Replace the earlier result by the files that `write` puts into the given folder.

        A folder deleted meanwhile is created again. If the result cannot be written, or a name was taken, it goes into
        a new folder beside it and the error says so: hours of work are not lost.

        Args:
            stage: an existing staging folder, with its files.
            more: `adding` follows. If the result went elsewhere, `folder` becomes that place, and `adding` raises the error.
        Raises:
            UserError: if it could not be written to its place.
        """
        stages = [] if stage is None else [stage]
        try:
            self._published = self._move(self._filled(write, stages))
        except (OSError, UserError) as error:
            refused = _plain(self.folder, error)
            refuge = self._elsewhere(write, stages)
            if refuge is None:
                raise refused from error
            moved = UserError(f"{refused.sentence.rstrip('.')}; the result lies in {refuge} instead.")
            moved.__cause__ = error
            if not more:
                raise moved  # noqa: B904
            self.folder, self._moved = refuge, moved
        finally:
            for each in stages:
                each.close()

    @contextlib.contextmanager
    def adding(self) -> Generator[Path, None, None]:
        """Yield a folder: what the block writes there is added to the result once it ends. Other files stay.

        Raises:
            UserError: if that fails, a name was taken meanwhile, or another process replaced the result; the folder is
                then unchanged. Also after success, if the result had to go to another folder.
        """
        try:
            with Stage(self.folder) as stage:
                yield stage.path
                self._move(stage, beside=True)
        except (OSError, UserError) as error:
            refused = _plain(self.folder, error).sentence.rstrip(".")
            whole = self.folder.is_dir() and self._stands(read_ledger(self.folder))
            raise UserError(f"{refused}{'; what was written before is complete' if whole else ''}.") from error
        finally:
            if self._moved is not None:
                raise self._moved

    def _stands(self, ledger: Ledger) -> bool:
        """Whether what was published is still on the folder's list, unchanged."""
        return all(ledger.files.get(name) == known for name, known in self._published.items())

    def _move(self, stage: Stage, *, beside: bool = False) -> dict[str, Written]:
        """Move complete files into place.

        Args:
            beside: add them to what was published, which must still stand; otherwise they replace all that was there.
        Returns: what was moved.
        """
        if not stage.exists:
            raise FileNotFoundError(errno.ENOENT, "it was deleted meanwhile")
        names = sorted(path.relative_to(stage.path).as_posix() for path in for_others(stage.path))
        files = {name: written(stage.path / name, self.verb) for name in names}
        with alone(self.folder):
            ledger = read_ledger(self.folder)
            if beside and not self._stands(ledger):
                raise UserError(
                    f"another process replaced or removed the result in {self.folder} before the rest of this one was "
                    "written; give every run its own --out."
                )
            taken = (ledger.why_taken(name, self.verb) for name in dict.fromkeys([*self.names, *names]))
            why = next((why for why in taken if why is not None), None)
            if why is not None:
                raise UserError(f"{why}; {ELSEWHERE}.")
            gone = [] if beside else [name for name in self._replaced(ledger) if name not in files]
            settle(self.folder, stage.home, Moves(files=files, stale=gone))
        return files

    def _filled(self, write: Callable[[Path], object], stages: list[Stage]) -> Stage:
        """Write everything; retry if the folder was deleted meanwhile. New staging folders are appended to the list, for
        the caller to close."""
        for last in (False, True):
            if not stages or not stages[-1].exists:
                stages.append(Stage(self.folder))
            stage = stages[-1]
            try:
                write(stage.path)
            except (OSError, UserError):
                if stage.exists or last:
                    raise
            if stage.exists:
                return stage
        raise FileNotFoundError(errno.ENOENT, "it is deleted again and again")

    def _elsewhere(self, write: Callable[[Path], object], stages: list[Stage]) -> Path | None:
        """Write the result into a new folder beside it, or among temporary files; None if that fails too."""

        def again(path: Path) -> None:
            if stages and stages[-1].exists:
                shutil.copytree(stages[-1].path, path, dirs_exist_ok=True)
            write(path)

        for choose in (_beside, _temporary):
            fresh: list[Stage] = []
            with contextlib.suppress(OSError, UserError):
                place = choose(self.folder)
                try:
                    other = Outputs(place, self.verb, ())
                    self._published = other._move(other._filled(again, fresh))
                    return place
                finally:
                    for each in fresh:
                        each.close()
                    with contextlib.suppress(OSError):  # where it holds nothing
                        place.rmdir()
        return None

    def _replaced(self, ledger: Ledger) -> list[str]:
        """Return the earlier files that the new ones replace. The list may have come with a copied folder, so nothing
        in it is trusted."""
        folders = tuple(each.removeprefix("./") for each in self.names if each.endswith("/"))
        own = ledger.of(self.verb)
        return [name for name in own if name in self.names or name.startswith(folders) or self.earlier(name)]

    def _refuse_input(self, given: Path, ledger: Ledger) -> None:
        """Refuse an input that would be replaced; for a glob, its leading folder counts."""
        there = next((path for path in (given, *given.parents) if path.exists()), None)
        if there is None:
            return
        real = there.resolve()
        for name in dict.fromkeys([*self.names, *self._replaced(ledger)]):
            place = self.folder / name
            if place.exists() and any(os.path.samefile(place, each) for each in (real, *real.parents)):
                where = "is" if not name.endswith("/") else "lies in"
                raise UserError(
                    f"'{given}' is read and {where} {place}, which vitreg {self.verb} would replace; "
                    "name another folder with --out."
                )


def settle(folder: Path, home: Path, plan: Moves) -> None:
    """Move complete files into place. Can be resumed wherever it was interrupted.

    The earlier record is removed first and the new one moved last, so a record never lies beside files of another.
    """
    before = read_ledger(folder)
    kept = {n: w for n, w in before.files.items() if n not in plan.stale and os.path.lexists(folder / n)}
    write_ledger(home / LEDGER, Ledger(folder, {**kept, **plan.files}))  # first: a full disk does no harm yet
    draft = home / f"{PLAN}.part"
    draft.unlink(missing_ok=True)
    draft.write_text(plan.model_dump_json(), encoding="utf-8")
    os.replace(draft, home / PLAN)
    recorded = (home / NEW / RECORD).exists()
    for name in [*([RECORD] if recorded else []), *plan.stale]:
        if before.proves(name):
            (folder / name).unlink()
    for name in sorted(plan.files, key=lambda name: (name == RECORD, name)):
        source = home / NEW / name
        if source.exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, folder / name)
    os.replace(home / LEDGER, folder / LEDGER)
    (home / PLAN).unlink()
    for name in plan.stale:  # folders that held nothing else
        with contextlib.suppress(OSError):
            if "/" in name and name in before.files and not through_link(folder, name):
                (folder / name).parent.rmdir()


def finish_left(folder: Path) -> None:
    """Finish the moves of killed runs, and remove staging folders of runs killed before moving.

    Only folders with vitreg's mark and without a living process are touched. A copied folder may contain such folders,
    so nothing outside is moved or removed. If a name was taken meanwhile, nothing is moved.
    """
    for home in sorted(folder.glob(f"{PREFIX}*")):
        if any(path.is_symlink() for path in (home, home / MARK, home / NEW)) or not _abandoned(home / MARK):
            continue
        with contextlib.suppress(OSError, UserError, ValidationError):
            if os.path.lexists(home / PLAN):
                plan = Moves.model_validate_json((home / PLAN).read_bytes())
                with alone(folder):
                    if not _may_settle(read_ledger(folder), home, plan):
                        continue
                    settle(folder, home, plan)
            shutil.rmtree(home, ignore_errors=True)


def _may_settle(ledger: Ledger, home: Path, plan: Moves) -> bool:
    """Whether every file to move is already in place, or is complete in the staging folder and its name is free."""
    if not all(map(is_inside, [*plan.files, *plan.stale])):
        return False
    return all(
        is_still(ledger.folder, name, known)
        if not os.path.lexists(home / NEW / name)
        else is_still(home, f"{NEW}/{name}", known) and ledger.why_taken(name, known.by) is None
        for name, known in plan.files.items()
    )


def _abandoned(mark: Path) -> bool:
    """Whether a staging folder is vitreg's and no process holds it. If the system cannot tell, it is left alone."""
    try:
        with mark.open("r+", encoding="utf-8") as file:
            if json.load(file)["schema"] != "vitreg.part/1" or fcntl is None:
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _beside(folder: Path) -> Path:
    """Make a new folder beside one."""
    folder = folder.absolute()
    names = (folder.with_name(f"{folder.name or 'vitreg'}-{number}") for number in itertools.count(2))
    place = next(each for each in names if not os.path.lexists(each))
    place.mkdir(parents=True)
    return place


def _temporary(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{folder.name or 'vitreg'}-"))


def _plain(folder: Path, error: OSError | UserError) -> UserError:
    """Return the error text without paths inside the staging folder."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):
        return UserError(f"cannot write to {folder}: {cause.strerror or cause}.")
    assert isinstance(error, UserError)
    return error
