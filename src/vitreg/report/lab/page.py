"""The page of a design, with its figures and its numbers for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitreg.quantities import MISSING, number, percent
from vitreg.records.lab import LabCell, LabReport
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.lab.charts import of_cell, scales_of
from vitreg.report.lab.figures import FIGURES, NAMES, draw_figures
from vitreg.report.lab.numbers import effects_csv, runs_csv
from vitreg.report.lab.tables import tables_of, tokens_of
from vitreg.report.scan import payload
from vitreg.report.words import count, times
from vitreg.writing.files import output_folder, write_text

PAGE, CSV, RUNS = "report.html", "effects.csv", "runs.csv"


def draw_lab(result: LabReport, directory: Path, attempts: Attempts) -> None:
    """Write both CSV files, the figures and the page into a folder.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory))
    attempts(CSV, lambda: write_text(folder / CSV, effects_csv(result)))
    attempts(RUNS, lambda: write_text(folder / RUNS, runs_csv(result)))
    draw_figures(result, folder / FIGURES, attempts)
    attempts(PAGE, lambda: shell.write(folder / PAGE, render(result, attempts, folder)))


def render(result: LabReport, attempts: Attempts | None = None, place: Path | None = None) -> str:
    """Return the page as text.

    Args:
        place: the folder with the figures that it names.
    """
    attempts = Attempts() if attempts is None else attempts
    return shell.render(
        "lab.html.j2",
        result=result,
        several=f"{count(result.ended, 'run')} of {result.asked}",
        tables=tables_of(result),
        cells=[_cell(each) for each in result.cells],
        tokens=[found for each in result.cells if (found := tokens_of(each))],
        figures=[name for name in NAMES if (place / FIGURES / f"{name}.svg").is_file()] if place else [],
        failed=[run for run in result.runs if run.failed or run.diverged],
        courses=_courses(result, attempts),
        undrawn=attempts.failed,
        data=payload.empty_block(),
    )


def _courses(result: LabReport, attempts: Attempts) -> list[dict[str, Any]]:
    scales, found = scales_of(result.runs), []
    for place, cell in enumerate(result.cells):
        runs = [run for run in result.runs if run.cell == place]
        charts = attempts(f"courses of {cell.name}", lambda runs=runs: of_cell(runs, scales))
        if charts:
            found.append({"name": cell.name, "charts": charts, "outcomes": _outcomes(cell)})
    return found


def _outcomes(cell: LabCell) -> str:
    words = [f"{many} {name}" for name, many in cell.outcomes.items()]
    return ", ".join([*words, *([f"{cell.failed} failed"] if cell.failed else [])]) or "none ended"


def _cell(cell: LabCell) -> dict[str, Any]:
    share = cell.artifacts
    return {
        "name": cell.name, "outcomes": _outcomes(cell),
        "share": f"{share.hits} of {share.of}" if share else MISSING,
        "interval": f"{percent(share.low)} to {percent(share.high)}" if share else "",
        "numbers": [
            ("largest norm / median", times(cell.ratio)), ("at the end", times(cell.last)),
            ("solved at step", MISSING if cell.solved is None else f"{cell.solved:,.0f}"),
            ("last error", number(cell.error)), ("least without looking", number(cell.least)),
        ],
    }  # fmt: skip
