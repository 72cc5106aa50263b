"""The page of a design, and its numbers for other programs: a CSV of the effects and one of the runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from vitreg.quantities import MISSING, number, percent
from vitreg.records.lab import MEASURES, Effect, Estimate, LabCell, LabReport, Measure
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.lab.charts import of_cell, scales_of
from vitreg.report.scan import payload
from vitreg.report.words import count, times
from vitreg.writing.files import output_folder, write_text

PAGE, CSV, RUNS = "report.html", "effects.csv", "runs.csv"
OF_AN_EFFECT = ("block", "factor", "level", "against", "where", "average")
OF_AN_ESTIMATE = ("value", "low", "high", "p", "adjusted", "exact", "decided", "left_out", "censored")
OF_A_RUN = (
    "name", "registers", "seed", "outcome", "steps", "solved", "error", "onset", "peak_ratio", "peak_step", "last_ratio", "seconds",
    "failed", "diverged",
)  # fmt: skip
TITLES: dict[Measure, str] = {
    "ratio": "largest norm / median",
    "solved": "error below 0.01 at step",
    "error": "last error",
}


def draw_lab(result: LabReport, directory: Path, attempts: Attempts) -> None:
    """Write both CSV files and the page into a folder.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory))
    attempts(CSV, lambda: write_text(folder / CSV, effects_csv(result)))
    attempts(RUNS, lambda: write_text(folder / RUNS, runs_csv(result)))
    attempts(PAGE, lambda: shell.write(folder / PAGE, render(result, attempts)))


def effects_csv(result: LabReport) -> str:
    """Return CSV: a header, then a line for each measure of each row of the table."""
    rows = [
        [
            *(getattr(each, name) for name in OF_AN_EFFECT),
            measure,
            *(getattr(found, name) for name in OF_AN_ESTIMATE),
            *found.runs,
        ]
        for each in result.effects
        for measure, found in each.measures.items()
    ]
    return _csv([*OF_AN_EFFECT, "measure", *OF_AN_ESTIMATE, "runs", "runs_against"], rows)


def runs_csv(result: LabReport) -> str:
    """Return CSV: a header, then a line for each run that ended; what a run lacks is empty."""
    rows = []
    for run in result.runs:
        taken = [run.background and run.background.attention, run.background and run.background.values]
        taken.append(run.registers_hold and run.registers_hold.attention)
        rows.append([result.cells[run.cell].name, *(getattr(run, name) for name in OF_A_RUN), *taken])
    return _csv(["cell", *OF_A_RUN, "attention_background", "values_background", "attention_registers"], rows)


def _csv(head: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    return text.getvalue()


def render(result: LabReport, attempts: Attempts | None = None) -> str:
    """Return the page as text."""
    attempts = Attempts() if attempts is None else attempts
    used: list[Measure] = [each for each in MEASURES if any(each in row.measures for row in result.effects)]
    return shell.render(
        "lab.html.j2",
        result=result,
        several=f"{count(result.ended, 'run')} of {result.asked}",
        titles=[TITLES[each] for each in used],
        effects=[_effect(each, used) for each in result.effects],
        cells=[_cell(each) for each in result.cells],
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


def _effect(each: Effect, used: list[Measure]) -> dict[str, Any]:
    return {
        "name": each.factor, "level": each.level, "against": each.against, "where": each.where, "average": each.average,
        "cells": [_estimate(measure, each.measures.get(measure)) for measure in used],
    }  # fmt: skip


def _estimate(measure: Measure, found: Estimate | None) -> dict[str, Any]:
    """Return a cell of the table: the estimate, its interval, and whether it is decided."""
    title = TITLES[measure]
    if found is None:
        return {
            "title": title,
            "value": MISSING,
            "interval": "",
            "decided": False,
            "state": "no runs to compare",
            "notes": "",
        }
    form = (lambda value: f"{value:+,.0f} steps") if measure == "solved" else times
    ends = "" if found.low is None or found.high is None else f"{form(found.low)} to {form(found.high)}"
    notes = [f"{found.left_out} left out"] if found.left_out else []
    notes += [f"{found.censored} not solved"] if found.censored else []
    p = (
        "no spread to tell by"
        if found.adjusted is None
        else "p < 0.001"
        if found.adjusted < 0.001
        else f"p {found.adjusted:.3f}"
    )
    return {
        "title": title, "value": form(found.value), "interval": ends, "decided": found.decided,
        "state": p if found.decided else f"undecided, {p}", "notes": "; ".join([f"{found.runs[0]} against {found.runs[1]} runs", *notes]),
    }  # fmt: skip


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
            ("norm / median", times(cell.ratio)), ("solved at step", MISSING if cell.solved is None else f"{cell.solved:,.0f}"),
            ("last error", number(cell.error)), ("least without looking", number(cell.least)),
            ("attention, background", percent(cell.background)), ("its values", number(cell.values)),
            ("attention, registers", percent(cell.registers)),
        ],
    }  # fmt: skip
