"""Drawing after the record is on disk: a drawing that fails is listed in the record, and the others are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from vitreg.console.terminal import say
from vitreg.records import Curves, ScanResult
from vitreg.results import DiscoverResult, EvalResult, Evaluations, RepairsResult
from vitreg.writing.files import write_text
from vitreg.writing.outputs import Outputs

if TYPE_CHECKING:
    from vitreg.report import Attempts

Kept = TypeVar("Kept", ScanResult, Curves, DiscoverResult, EvalResult, Evaluations, RepairsResult)


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


def draw_beside(outputs: Outputs, record: Kept, name: str, draw: Callable[[Kept, Path, Attempts], None]) -> Kept:
    """Add the drawings to a result, and return the record with the list of drawings that failed.

    Args:
        record: the record on disk; it is written again if a drawing failed.
        name: its file name.
        draw: draws the record (as read from its file) into a folder; each drawing is one attempt.
    Raises:
        UserError: if the folder cannot be written; the record is complete then.
    """
    from vitreg.report import Attempts

    attempts, named, read = Attempts(), record, as_written(record)

    def write(place: Path) -> None:
        nonlocal named
        draw(read, place, attempts)
        if attempts.failed:
            named = record.model_copy(update={"undrawn": list(attempts.failed)})
            write_text(place / name, named.model_dump_json(indent=1))

    outputs.add(write)
    return named
