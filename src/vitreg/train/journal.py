"""What a run writes down as it goes: metrics.jsonl, a line per record, and TensorBoard events if wanted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vitreg.errors import UserError
from vitreg.files import write_text


class Journal:
    """The records of a run, in the order of their steps. Resuming takes back what came after the checkpoint.

    Args:
        folder: of the run.
        step: steps done; later records, of a run that was cut off, are dropped.
        looked: whether what was due at this step has been looked at; if not, the records of that are dropped as well.
        write: whether this process writes; one does.
        tensorboard: also write events for TensorBoard.
    Raises:
        UserError: if TensorBoard is wanted and missing.
    """

    def __init__(self, folder: Path, step: int, *, looked: bool = True, write: bool, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        self._writes, self._events = write, None
        if not write:
            return
        self._events = _events(folder / "tensorboard", step) if tensorboard else None
        kept = [
            line
            for line in (read_records(folder) if step else ())
            if line["step"] < step or (line["step"] == step and (looked or line["kind"] == "train"))
        ]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a record: its kind ("train", "evaluation", "norms"), the steps done, and values."""
        if not self._writes:
            return
        line = {"kind": kind, "step": step, **{key: _finite(value) for key, value in values.items()}}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}.") from error
        if self._events is not None:
            for key, value in line.items():
                if isinstance(value, int | float) and key not in ("kind", "step"):
                    self._events.add_scalar(f"{kind}/{key}", value, step)

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()


def read_records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a run, of one kind or all; a line cut off by a crash is passed over."""
    path = folder / "metrics.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"kind", "step"} <= record.keys() and kind in (None, record["kind"]):
            records.append(record)
    return records


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--run.tensorboard needs the tensorboard package: pip install tensorboard.") from None
    return SummaryWriter(str(folder), purge_step=step)
