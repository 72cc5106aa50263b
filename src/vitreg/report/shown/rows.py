"""The rows of every result, as its table of pandas has them: plain values, one row for what the result has many of."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

from vitreg.notebook import Row
from vitreg.records import Curves, Record, ScanResult
from vitreg.records.explore import ExploreResult
from vitreg.records.lab import BornRun, LabReport
from vitreg.records.look import LookResult
from vitreg.records.reproduction import Reproduction
from vitreg.records.zoo import Board
from vitreg.results import DiscoverResult, DoctorResult, EvalResult, Evaluations, RepairsResult, Table


@singledispatch
def rows_of(result: Record) -> list[Row]:
    """Return the rows of a result; every row has the same columns, and what was not measured is None."""
    raise TypeError(f"{type(result).__name__} has no rows")


@rows_of.register
def _scan(result: ScanResult) -> list[Row]:
    """A row for each block."""
    return [
        {
            "block": layer.index,
            **layer.model_dump(
                exclude={"index", "histogram", "quantiles", "register_norms", "followed", "gates"}, mode="json"
            ),
            "followed_ratio": layer.followed.ratio if layer.followed else None,
            "followed_auc": layer.followed.auc if layer.followed else None,
        }
        for layer in result.layers
    ]


@rows_of.register
def _look(result: LookResult) -> list[Row]:
    """A row for each photo and model."""
    wanted = ("found", "side", "share", "ratio", "first", "single", "peak", "threshold", "place", "sentence")
    return [
        {
            "photo": photo.photo, "model": each.name, **{name: getattr(each, name) for name in wanted},
            "patches": len(each.patches),
        }
        for photo in result.photos
        for each in photo.models
    ]  # fmt: skip


@rows_of.register
def _explore(result: ExploreResult) -> list[Row]:
    """A row for each photo and model."""
    return [
        {
            "photo": result.photos[each.photo], "model": result.models[each.model].name, "found": each.found,
            "sentence": each.sentence,
        }
        for each in result.documents
    ]  # fmt: skip


@rows_of.register
def _doctor(result: DoctorResult) -> list[Row]:
    """A row for each finding."""
    return [finding.model_dump() for finding in result.findings]


@rows_of.register
def _evaluation(result: EvalResult) -> list[Row]:
    """A row for each metric, then for each control of the headline."""
    rows = [("metric", name, value) for name, value in result.metrics.items()]
    rows += [("control", name, value) for name, value in result.controls.items()]
    made: list[Row] = []
    for kind, name, value in rows:
        of = name if kind == "metric" else result.headline
        low, high = result.intervals.get(name, (None, None)) if kind == "metric" else (None, None)
        row = {"kind": kind, "name": name, "value": value, "low": low, "high": high, "unit": result.units.get(of, "")}
        made.append(row | {"headline": kind == "metric" and name == result.headline})
    return made


@rows_of.register
def _table(result: Table) -> list[Row]:
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


@rows_of.register
def _evaluations(result: Evaluations) -> list[Row]:
    """A row for each model and task."""
    made: list[Row] = []
    for pair in result.pairs:
        low, high = pair.interval or (None, None)
        control, beaten = pair.control or (None, None)
        made.append(
            {
                "model": pair.model, "task": pair.task, "metric": pair.metric, "value": pair.value, "low": low, "high": high,
                "unit": pair.unit, "best_control": control, "control": beaten, "beats_controls": pair.beats_controls,
                "registers": pair.registers, "folder": pair.folder, "failed": pair.failed,
            }
        )  # fmt: skip
    return made


@rows_of.register
def _discover(result: DiscoverResult) -> list[Row]:
    """A row for CorLoc, then for each control. The table of a sweep has rows of its own.

    Without true boxes there is no CorLoc: then a row for each box that was found and each image without one, or in a result
    that was read from its file, how many images have a box, and how many have none for which reason.
    """
    found = result.corloc
    if found is None:
        setting = {name: result.setting.get(name) for name in ("method", "feature", "block")}
        return [{**row, **setting} for row in result.boxed.rows or box_counts(result)]
    first = {"kind": "found", "name": result.model.spec, "corloc": found.value}
    rows = [first | {"low": found.low, "high": found.high, "images": found.images}]
    return rows + [
        {"kind": "control", "name": name, "corloc": value, "low": None, "high": None, "images": None}
        for name, value in result.controls.items()
    ]


def box_counts(result: DiscoverResult) -> list[Row]:
    """Return how many images have a box, and how many have none, by the reason."""
    without = sum(result.without_box.values())
    rows: list[Row] = [{"kind": "with a box", "name": result.model.spec, "images": result.images.seen - without}]
    return rows + [{"kind": "without", "name": why, "images": many} for why, many in result.without_box.items()]


@rows_of.register
def _repairs(result: RepairsResult) -> list[Row]:
    """A row for each number of each model and repair; for a repair without any, one that says why."""
    columns = {column.name: column for column in result.columns}
    numbers = ("value", "low", "high", "change", "change_low", "change_high")
    made: list[Row] = []
    for row in result.rows:
        said = {"model": row.model, "method": row.method, "control": row.control}
        for name, cell in (row.cells or {"": None}).items():
            column = columns.get(name)
            about = {"column": name, "side": column.side if column else "", "unit": column.unit if column else ""}
            made.append(said | about | {each: getattr(cell, each, None) for each in numbers} | {"failed": row.failed})
    return made


@rows_of.register
def _curves(result: Curves) -> list[Row]:
    """A row for each value of each curve."""
    return [
        {"run": run.name, "kind": kind, "curve": curve.name, "step": step, "value": value}
        for run in result.runs
        for kind, curves in (("training", run.training), ("evaluation", run.evaluations))
        for curve in curves
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]


@rows_of.register
def _reproduction(result: Reproduction) -> list[Row]:
    """A row for each claim on each subject."""
    return [
        {"experiment": each.id, **claim.model_dump(mode="json")} for each in result.experiments for claim in each.claims
    ]


@rows_of.register
def _lab_report(result: LabReport) -> list[Row]:
    """A row for each run."""
    return [
        {"cell": result.cells[run.cell].name, **row} for run, row in zip(result.runs, _runs(result.runs), strict=True)
    ]


def _runs(runs: Iterable[BornRun]) -> list[Row]:
    wanted = (
        *("name", "registers", "seed", "outcome", "steps", "solved", "error", "onset", "peak_ratio", "peak_step"),
        *("last_ratio", "seconds", "failed"),
    )
    return [
        {
            **{name: getattr(run, name) for name in wanted},
            "background_attention": run.background.attention if run.background else None,
            "registers_attention": run.registers_hold.attention if run.registers_hold else None,
        }
        for run in runs
    ]


@rows_of.register
def _board(result: Board) -> list[Row]:
    """A row for each model; what others published is not among them."""
    rows: list[Row] = []
    for each in result.rows:
        held = each.model_dump(mode="python", exclude={"protocol", "rank", "groups", "differs"})
        first, last = each.rank or (None, None)
        rows.append(held | {"rank_first": first, "rank_last": last, "differs": "; ".join(each.differs)})
    return rows
