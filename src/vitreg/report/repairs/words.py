"""A row of the table of repairs in words, and what a number says beside the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vitreg.report.words import MISSING, PERCENT, number
from vitreg.results import RepairCell, RepairColumn, RepairRow

Standing = Literal["better", "worse", "level"]
SHOWN = 3  # rows that are named
NAMES = {"none": "as it is", "none clean twin": "clean twin", "none twin": "twin"}


def label(row: RepairRow) -> str:
    """Return a row's name: the method, and which control it is."""
    words = f"{row.method} {row.control}".strip()
    return NAMES.get(words, f"{row.method}: {row.control}" if row.control else row.method)


def value(column: RepairColumn, cell: RepairCell | None) -> str:
    """Return a number with its unit; a dash for one that has no meaning."""
    if cell is None:
        return MISSING
    unit = {"%": PERCENT, "x": "×", "s": "\N{NO-BREAK SPACE}s", "": ""}[column.unit]
    return f"{number(cell.value)}{unit}"


def interval(cell: RepairCell | None) -> str:
    """Return the interval of a number; empty without one."""
    return "" if cell is None or cell.low is None or cell.high is None else f"{number(cell.low)} to {number(cell.high)}"


def standing(column: RepairColumn, cell: RepairCell | None) -> Standing:
    """Compare with the model as it is: better or worse only where the whole interval of the change says so, and the change
    is at least the smallest one worth naming."""
    if cell is None or cell.change_low is None or cell.change_high is None or column.better == "neither":
        return "level"
    if column.side == "damage" and column.compared:  # any change at all would be worse than none
        return "level"
    if cell.change_low <= 0 <= cell.change_high or abs(cell.change or 0.0) < column.least:
        return "level"
    return "better" if (cell.change_low > 0) == (column.better == "larger") else "worse"


def meaning(column: RepairColumn) -> str:
    """Say how a number is measured, and from which change on it is called better or worse."""
    if not column.least or column.better == "neither" or (column.side == "damage" and column.compared):
        return column.meaning
    unit = {"%": " points", "x": "", "s": " s", "": ""}[column.unit]
    return f"{column.meaning} Changes below {number(column.least)}{unit} are called neither better nor worse."


def lacking(columns: Sequence[RepairColumn], rows: Sequence[RepairRow]) -> list[str]:
    """Say which numbers rows lack, and why."""
    found: dict[tuple[str, str], list[RepairRow]] = {}
    for row in rows:
        for name, reason in row.lacking.items():
            found.setdefault((name, reason), []).append(row)
    titles = {column.name: column.title for column in columns}
    measured = sum(not row.failed for row in rows)
    return [
        f"No {titles.get(name, name)}{'' if len(those) == measured else f' of {_some(those)}'}: {reason}."
        for (name, reason), those in found.items()
    ]


def _some(rows: Sequence[RepairRow]) -> str:
    more = len(rows) - SHOWN
    return ", ".join(label(row) for row in rows[:SHOWN]) + (f" and {more} more rows" if more > 0 else "")


def sentence(rows: list[RepairRow], columns: Sequence[RepairColumn] = ()) -> str:
    """Say of one model which repair leaves the fewest outliers, and what it changes."""
    model, first = rows[0].model, rows[0]
    if first.failed:
        return f"{model} could not be measured: {first.failed}"
    if first.unneeded:
        return f"{model} has no outliers on these images, so there is nothing to repair."
    found = [row for row in rows if not row.control and row.method != "none" and "outliers_peak" in row.cells]
    before = first.cells["outliers_peak"].value
    said = f"{model} has {number(before)}{PERCENT} outliers" + (
        ", the largest norms of a model without artifacts" if first.forced else ""
    )
    if not found:
        return f"{said}; no repair could be measured."
    best = min(found, key=lambda row: (row.cells["outliers_peak"].value, _damage(row)))
    left = best.cells["outliers_peak"].value
    if left >= before:
        return f"{said}; no repair leaves fewer."
    column = next((each for each in columns if each.name == "outliers_peak"), None)
    cell = best.cells["outliers_peak"]
    if column is not None and cell.change_low is not None and standing(column, cell) == "level":
        return f"{said}; no repair leaves clearly fewer: the fewest, {number(left)}{PERCENT}, has {best.method}."
    return (
        f"{said}; {best.method} leaves {number(left)}{PERCENT} and changes CLS by {number(_damage(best))} (1 - cosine)."
    )


def _damage(row: RepairRow) -> float:
    return row.cells["cls_change"].value if "cls_change" in row.cells else 0.0
