"""Drawing after the record is on disk: a drawing that fails is listed in the record, and the others are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from vitreg.console.terminal import say
from vitreg.records import Curves, ScanResult
from vitreg.records.lab import LabReport
from vitreg.records.reproduction import Reproduction
from vitreg.records.zoo import Board
from vitreg.results import DiscoverResult, EvalResult, Evaluations, RepairsResult
from vitreg.writing.files import write_text
from vitreg.writing.outputs import Outputs

if TYPE_CHECKING:
    from vitreg.report import Attempts

Kept = TypeVar(
    "Kept",
    ScanResult,
    Curves,
    DiscoverResult,
    EvalResult,
    Evaluations,
    RepairsResult,
    Reproduction,
    Board,
    LabReport,
)


def place_of_interrupted(outputs: Outputs) -> Outputs:
    """Return where an interrupted result is written, and print it if an earlier run's complete result stays beside it."""
    place = outputs.beside_complete()
    if place is not outputs:
        say(
            f"vitreg: {outputs.folder} keeps its complete result; the interrupted one lies in {place.folder}.",
            error=True,
        )
    return place


def as_written(record: Kept) -> Kept:
    """The record as a later reader gets it from its file. Pages are drawn from this, so drawing again gives the same."""
    try:
        return type(record).model_validate_json(record.model_dump_json())
    except ValidationError:  # JSON has no NaN or infinity
        return record


def noted(record: Kept, path: Path, attempts: Attempts) -> Kept:
    """Return the record with the list of drawings that failed.

    Args:
        path: where it is written again, if one did.
    """
    if not attempts.failed:
        return record
    record = record.model_copy(update={"undrawn": list(attempts.failed)})
    write_text(path, record.model_dump_json(indent=1))
    return record
