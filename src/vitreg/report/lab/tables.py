"""The rows of a design in words: effects, interactions, and runs that go on from others; and what is told apart by cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitreg.quantities import MISSING, number, percent
from vitreg.records.lab import MEASURES, Effect, Estimate, LabCell, LabReport, Measure
from vitreg.report.words import times

TITLES: dict[Measure, str] = {
    "ratio": "largest norm / median",
    "solved": "error below 0.01 at step",
    "error": "last error",
    "last": "norm / median at the end",
}


def tables_of(result: LabReport) -> dict[str, dict[str, Any]]:
    """Return the tables that there are, by what they are of."""
    kinds = {
        "effects": [each for each in result.effects if not each.interaction and each.after is None],
        "interactions": [each for each in result.effects if each.interaction],
        "later": [each for each in result.effects if not each.interaction and each.after is not None],
    }
    found: dict[str, dict[str, Any]] = {}
    for name, effects in kinds.items():
        used: list[Measure] = [measure for measure in MEASURES if any(measure in each.measures for each in effects)]
        rows = [_effect(each, used, result) for each in effects]
        if rows:
            found[name] = {"titles": [TITLES[each] for each in used], "rows": rows}
    return found


def _effect(each: Effect, used: Sequence[Measure], result: LabReport) -> dict[str, Any]:
    return {
        "name": each.factor, "level": each.level, "against": each.against, "where": _where(each, result), "average": each.average,
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


def _where(each: Effect, result: LabReport) -> str:
    after = [] if each.after is None else [f"going on from {result.cells[each.after].name}"]
    return ", ".join([*([each.where] if each.where else []), *after])


def tokens_of(cell: LabCell) -> dict[str, Any] | None:
    """Return what tokens take and hold at the end in the runs of a cell; None where no run solved the task."""
    if cell.background is None and cell.registers is None and cell.foreground is None:
        return None
    return {
        "name": cell.name,
        "numbers": [
            ("background", percent(cell.background)), ("its values", number(cell.values)),
            ("one foreground tile", percent(cell.foreground)), ("registers", percent(cell.registers)),
            ("their values", number(cell.registers_values)), ("their norm / median", times(cell.registers_norm)),
            ("the largest’s part", percent(cell.largest)), ("effective number", number(cell.effective)),
        ],
    }  # fmt: skip
