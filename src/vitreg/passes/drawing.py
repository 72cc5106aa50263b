"""Drawing beside a record that is safe already: what fails is named in the record, and everything else is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from vitreg.console.terminal import say
from vitreg.records import Curves, ScanResult
from vitreg.results import DiscoverResult, EvalResult, Evaluations
from vitreg.writing.files import write_text
from vitreg.writing.outputs import Outputs

if TYPE_CHECKING:
    from vitreg.report import Attempts

Kept = TypeVar("Kept", ScanResult, Curves, DiscoverResult, EvalResult, Evaluations)


def place_of_interrupted(outputs: Outputs) -> Outputs:
    """Return where an interrupted result is written, and say so where the complete result of an earlier run stays."""
    place = outputs.beside_complete()
    if place is not outputs:
        say(
            f"vitreg: {outputs.folder} keeps its complete result; the interrupted one lies in {place.folder}.",
            error=True,
        )
    return place


def as_written(record: Kept) -> Kept:
    """The record as it is read again from its file: pages are drawn of that, so that a later drawing is the same."""
    try:
        return type(record).model_validate_json(record.model_dump_json())
    except ValidationError:  # a number that JSON does not have
        return record


def draw_beside(outputs: Outputs, record: Kept, name: str, draw: Callable[[Kept, Path, Attempts], None]) -> Kept:
    """Add what `draw` draws to a result, and return the record, which names what could not be drawn.

    Args:
        record: as it was published; it is written once more where a drawing failed.
        name: of its file.
        draw: draws the record, as it was written, into a folder, each thing as one of the attempts.
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
