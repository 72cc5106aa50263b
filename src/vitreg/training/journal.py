"""The log of a run: metrics.jsonl, a line per record, optional TensorBoard events, and the sums between two lines."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.writing.files import kept_name, replacing, write_text

if TYPE_CHECKING:
    from torch import Tensor

MOST_STEPS = 2**53  # larger numbers are no valid steps


class Journal:
    """The records of a run, in the order of their steps. Resuming drops records after the checkpoint.

    Args:
        folder: of the run.
        step: steps done; later records, of an interrupted run, are dropped.
        until: step of the published weights; records up to it are dropped only once the run reaches it again.
        looked: whether the callbacks due at `step` have run; if not, their records are dropped too.
        write: whether this process writes; one does.
        tensorboard: also write TensorBoard events.
    Raises:
        UserError: if TensorBoard is wanted and missing.
    """

    def __init__(
        self, folder: Path, step: int, *, until: int = 0, looked: bool = True, write: bool, tensorboard: bool
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self._writes, self._events = write, None
        self._ahead: list[dict[str, Any]] = []
        if not write:
            return
        self._events = _events(folder / "tensorboard", step) if tensorboard else None
        before = read_records(folder) if step else []
        self._done = [
            line
            for line in before
            if line["step"] < step or (line["step"] == step and (looked or line["kind"] == "train"))
        ]
        self._ahead = [line for line in before if step < line["step"] <= until]
        _keep_foreign(self.path)
        self._write_all()

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a record: its kind ("train", "evaluation", "norms"), the steps done, and values."""
        if not self._writes:
            return
        line = {"kind": kind, "step": step, **{key: _finite(value) for key, value in values.items()}}
        if self._ahead:
            self._done.append(line)
            self._ahead = [each for each in self._ahead if each["step"] > step]
            self._write_all()
        else:
            self._append(line)
        if self._events is not None:
            for key, value in line.items():
                if isinstance(value, int | float) and key not in ("kind", "step"):
                    self._events.add_scalar(f"{kind}/{key}", value, step)

    def _write_all(self) -> None:
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in [*self._done, *self._ahead]))

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}.") from error

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()


def _keep_foreign(path: Path) -> None:
    """Keep a copy of a journal with foreign content before it is replaced; a crash leaves only a partial last line."""
    if path.is_symlink():
        path.rename(kept_name(path))
    elif path.is_file() and any(_record(line) is None for line in path.read_bytes().split(b"\n")[:-1] if line.strip()):
        with replacing(kept_name(path)) as copy:
            shutil.copy2(path, copy)


def read_records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a run, of one kind or all; invalid lines are skipped."""
    return [record for record in read_journal(folder)[0] if kind in (None, record["kind"])]


def read_journal(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records of a run, and the number of invalid lines: truncated by a crash, or foreign.

    Raises:
        UserError: if the file exists and cannot be read.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    records = [record for line in lines if (record := _record(line)) is not None]
    return records, len(lines) - len(records)


def unreadable_lines(count: int) -> str:
    """Say how many lines of the journal are no records."""
    return f"{count} line{'s' * (count > 1)} of metrics.jsonl could not be read and {'are' if count > 1 else 'is'} left out."


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    step = record.get("step")
    whole = isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= MOST_STEPS
    return record if whole and isinstance(record.get("kind"), str) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--run.tensorboard needs the tensorboard package: pip install tensorboard.") from None
    return SummaryWriter(str(folder), purge_step=step)


@dataclass(slots=True)
class Sums:
    """Metrics of the steps since the last line of the journal, and the seconds they took, part of them for data."""

    steps: int = 0
    waited: float = 0.0
    spent: float = 0.0
    values: dict[str, float] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, Tensor], waited: float, spent: float) -> None:
        """Count a step."""
        self.steps += 1
        self.waited += waited
        self.spent += spent
        for key, value in metrics.items():
            self.values[key] = self.values.get(key, 0.0) + float(value)

    def means(self) -> dict[str, float]:
        """Return the mean of each metric."""
        return {key: value / self.steps for key, value in self.values.items()}

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for data; 0 where the clock stood still."""
        return self.waited / self.spent if self.spent > 0 else 0.0

    def rate(self, batch: int) -> float | None:
        """Images per second, None where the clock stood still."""
        return self.steps * batch / self.spent if self.spent > 0 else None


def mean_of(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average over the processes."""
    return {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
