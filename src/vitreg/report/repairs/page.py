"""The table of repairs as one page and as CSV: gains, damages and costs side by side, controls below each repair."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.repairs import words
from vitreg.report.scan import payload
from vitreg.report.sheets.kept import Named
from vitreg.report.sheets.sheet import save_all
from vitreg.report.words import count
from vitreg.results import RepairColumn, RepairRow, RepairsResult
from vitreg.writing.files import output_folder, write_text

PAGE, CSV = "report.html", "table.csv"
SIDES = {"gain": "Gain", "damage": "Damage", "cost": "Cost"}
PARTS = ("value", "low", "high", "change", "change_low", "change_high")


def draw_repairs(result: RepairsResult, sheets: Sequence[Named], directory: Path, attempts: Attempts) -> None:
    """Draw the maps, the CSV file and the page into a folder.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory))
    save_all(sheets, folder, attempts)
    attempts(CSV, lambda: write_text(folder / CSV, as_csv(result)))
    pictures = [folder / name for name, _ in sheets if (folder / name).is_file()]
    attempts(PAGE, lambda: shell.write(folder / PAGE, render(result, pictures, attempts)))


def as_csv(result: RepairsResult) -> str:
    """Return CSV: a header, then one line for each row; a number that has no meaning is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    numbers = [(column.name, part) for column in result.columns for part in PARTS]
    head = [name if part == "value" else f"{name}_{part}" for name, part in numbers]
    table.writerow(["model", "method", "control", *head, "identical", "forced", "failed"])
    for row in result.rows:
        values = [getattr(row.cells[name], part) if name in row.cells else None for name, part in numbers]
        table.writerow([row.model, row.method, row.control, *values, row.identical, row.forced, row.failed])
    return text.getvalue()


def render(result: RepairsResult, pictures: Sequence[Path] = (), attempts: Attempts | None = None) -> str:
    """Return the page as text."""
    models = [list(rows) for _, rows in groupby(result.rows, key=lambda row: row.model)]
    sentences = [words.sentence(rows, result.columns) for rows in models]
    several = f"{count(len(models), 'model')}, {count(result.held_out, 'held-out image')}"
    used = [each for each in result.columns if any(each.name in row.cells for row in result.rows)]
    groups = [(title, [each for each in used if each.side == side]) for side, title in SIDES.items()]
    return shell.render(
        "repairs.html.j2",
        result=result,
        several=several,
        heading=sentences[0]
        if len(sentences) == 1
        else f"Repairs of {count(len(models), 'model')} on the same images.",
        sentences=sentences if len(sentences) > 1 else [],
        groups=[(title, found) for title, found in groups if found],
        columns=[column for _, found in groups for column in found],
        meanings=[(column.title, words.meaning(column)) for _, found in groups for column in found],
        models=[
            (rows[0].model, [_row(used, row) for row in rows], words.lacking(result.columns, rows)) for rows in models
        ],
        pictures=[(path.name, payload.data_uri("png", path.read_bytes())) for path in pictures],
        undrawn=[] if attempts is None else attempts.failed,
        data=payload.empty_block(),
    )


def _row(columns: Sequence[RepairColumn], row: RepairRow) -> dict[str, Any]:
    ordered = [column for side in SIDES for column in columns if column.side == side]
    return {
        "label": words.label(row),
        "control": bool(row.control),
        "failed": row.failed,
        "notes": [*row.notes, *(["Forced: the model has no outliers."] if row.forced else [])],
        "cells": [_cell(column, row) for column in ordered],
    }


def _cell(column: RepairColumn, row: RepairRow) -> dict[str, str]:
    cell = row.cells.get(column.name)
    return {
        "title": column.title,
        "value": words.value(column, cell),
        "interval": words.interval(cell),
        "standing": words.standing(column, cell),
    }
