"""One runner for what makes many runs: experiments, the lab, the zoo.

A job is the hash of its settings. `jobs/KEY.json` is its row, written once the job is done or has failed; `runs/KEY/` holds
what it writes. Processes on one folder share its jobs: each claims the jobs it works on, and the claim ends with the process.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import Field, ValidationError

import vitreg
from vitreg.errors import UserError
from vitreg.records import Record
from vitreg.writing.claims import Claims
from vitreg.writing.files import output_folder, printable, write_text

ROWS, RUNS = "jobs", "runs"
HOW_FAST = ("batch_size", "workers")  # options that change no number, and so are no part of a job's settings
PAUSE = 0.5  # seconds between looks at a job of another process

Work = Callable[[Path], Mapping[str, Any]]
"""Does a job: takes the folder it may write into, which holds what a killed attempt left, and returns what the row keeps."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Args:
        name: for people, such as "scan of planted:clean".
        settings: everything that decides the result, as JSON holds it.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The hash of the settings and of vitreg's version."""
        words = json.dumps([vitreg.__version__, self.settings], sort_keys=True, default=str)
        return hashlib.sha256(words.encode()).hexdigest()[:20]


class Row(Record):
    """What became of a job."""

    schema_: Literal["vitreg.job/1"] = Field(default="vitreg.job/1", alias="schema")
    name: str
    settings: dict[str, Any]
    failed: str = Field(default="", description="why there is no result, a sentence; empty where there is one")
    found: dict[str, Any] = Field(default_factory=dict, description="what the job returned")
    seconds: float
    at: float = Field(description="when it ended, seconds since 1970")


class Jobs:
    """The jobs of a folder. A job is done once; one that failed, or whose files were removed, is tried again by the next run.

    Args:
        folder: created where it does not exist.
        started: called with a job before it is done here.
        waits: called with a job that another process is doing, before this one waits for it.
    Raises:
        UserError: if the folder cannot be written, or holds something else under the name of a row.
    """

    def __init__(
        self,
        folder: Path,
        started: Callable[[Job], object] = lambda job: None,
        waits: Callable[[Job], object] = lambda job: None,
    ) -> None:
        self.folder, self._started, self._waits = folder, started, waits
        for name in (ROWS, RUNS):
            output_folder(folder / name)
        for path in (folder / ROWS).glob("*.json"):
            if _row(path) is None:
                raise UserError(f"{path} is no row of vitreg's jobs; move it away, or name another place with --out.")
        self._claims, self._since = Claims(folder / ROWS, ".claims"), time.time()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.__exit__(kind, error, trace)

    def alone(self) -> AbstractContextManager[None]:
        """Be the only process of the folder in this block."""
        return self._claims.alone()

    def row(self, job: Job) -> Row | None:
        """Return the row of a job that has ended; None if there is none that can be read."""
        return _row(self.folder / ROWS / f"{job.key}.json")

    def files(self, job: Job) -> Path:
        """Return the folder of what a job writes."""
        return self.folder / RUNS / job.key

    def within(self, path: str) -> str | None:
        """Return the name of a job's file that does not depend on where the folder lies: runs/KEY/photographs.

        Returns:
            None for a path outside. The key in the name tells what the file holds.
        """
        place, home = Path(path).expanduser().resolve(), self.folder.resolve()
        inside = place.is_relative_to(home / RUNS) and place != home / RUNS
        return place.relative_to(home).as_posix() if inside else None

    def do(self, job: Job, work: Work) -> Row:
        """Return the row of a job. Do it if nobody has; wait if another process does.

        A job fails by an exception, which becomes the sentence of its row; Ctrl-C ends the run and leaves no row.
        """
        return next(self.each([(job, work)]))

    def each(self, jobs: Iterable[tuple[Job, Work]]) -> Iterator[Row]:
        """Yield the rows of jobs as they end. Those that other processes are doing come last."""
        left, told = list(jobs), set()
        while left:
            others = []
            for job, work in left:
                row = self._ended(job) or self._claimed(job, work)
                if row is None:
                    others.append((job, work))
                else:
                    yield row
            if len(others) == len(left):
                for job, _ in others:
                    if job.key not in told:
                        self._waits(job)
                told |= {job.key for job, _ in others}
                time.sleep(PAUSE)
            left = others

    def in_turn(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the names of pieces of work that are made of jobs. Those that another process is at come last.

        So processes that share a folder go at different pieces, and do not wait for one another's jobs.
        """
        others = []
        for name in names:
            piece = _piece(hashlib.sha256(name.encode()).hexdigest())
            if not self._claims.take(piece):
                others.append(name)
                continue
            try:
                yield name
            finally:
                self._claims.let_go(piece)
        yield from others

    def _ended(self, job: Job) -> Row | None:
        row = self.row(job)
        if row is None or row.failed:
            return None if row is None or row.at < self._since else row
        return row if self.files(job).is_dir() else None  # somebody removed what it wrote

    def _claimed(self, job: Job, work: Work) -> Row | None:
        """Do a job; None if another process is doing it."""
        piece = _piece(job.key)
        if not self._claims.take(piece):
            return None
        try:
            return self._ended(job) or self._done(job, work)  # it may have ended just before
        finally:
            self._claims.let_go(piece)

    def _done(self, job: Job, work: Work) -> Row:
        self._started(job)
        begun, failed, found = time.time(), "", {}
        folder = self.files(job)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = dict(work(folder))
        except UserError as error:
            failed = error.sentence
        except Exception as error:  # one job of many: the others go on, and the row says why
            failed = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        now = time.time()
        row = Row(
            name=job.name,
            settings=dict(job.settings),
            failed=printable(failed),
            found=found,
            seconds=now - begun,
            at=now,
        )
        write_text(self.folder / ROWS / f"{job.key}.json", row.model_dump_json(indent=1))
        return row


def _piece(key: str) -> int:
    """Return the number under which what a key names is claimed."""
    return int(key[:15], 16)


def _row(path: Path) -> Row | None:
    """Read a row; None if there is none, or something else."""
    try:
        return Row.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
