"""The numbers of one row: a repaired model beside the model as it is, on the same held-out images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vitreg.analysis.intervals import paired_difference, wilson
from vitreg.analysis.paired import (
    FEWEST,
    RESAMPLES,
    Sums,
    interval,
    paired_change,
    resamples,
    tokens_difference,
    tokens_interval,
)
from vitreg.repair.columns import (
    attention,
    boxes,
    cost,
    int8,
    masks,
    outliers,
    positions,
    probes,
    smoothing,
    summary,
)
from vitreg.repair.columns.answers import heads, zeroshot
from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.reading import Gathered, Reader, Reading
from vitreg.results import RepairCell, RepairColumn

COLUMNS: tuple[Column, ...] = (
    *outliers.COLUMNS[:6], *attention.COLUMNS, *boxes.COLUMNS, *masks.COLUMNS, *int8.COLUMNS,
    *positions.COLUMNS, *outliers.COLUMNS[6:], *summary.COLUMNS, *heads.COLUMNS, *zeroshot.COLUMNS, *probes.COLUMNS, *smoothing.COLUMNS,
)  # fmt: skip
SHOWN = 4  # images whose maps are kept


def column_records() -> list[RepairColumn]:
    """Return the entries of all columns: gains, damages, costs."""
    return [*(column.record for column in COLUMNS), *cost.COLUMNS]


@dataclass(frozen=True)
class Measured:
    """One row's numbers, and what stays of its pass for rows after it."""

    cells: dict[str, RepairCell]
    lacking: dict[str, str]
    gathered: Gathered


def measured(
    reader: Reader, of: Reader | None = None, base: Gathered | None = None, *, alone: bool = False
) -> Measured:
    """Measure one model on the held-out images, in one pass.

    Args:
        reader: of the repaired model.
        of: of the model as it is; None if `reader` is of that.
        base: what stayed of the pass of the model as it is.
        alone: it is another model, whose tokens are not compared with those of the model as it is.
    """
    gathered = gather(reader, of)
    unrepaired = {} if base is None else base.sums  # the model as it is has no change from itself
    base = gathered if base is None else base
    count = len(next(iter(gathered.sums.values())).numerators)
    weights = resamples(count, RESAMPLES, reader.subject.seed) if count >= FEWEST else None
    cells: dict[str, RepairCell] = {}
    lacking = dict(gathered.lacking)
    for column in COLUMNS:
        if alone and (column.whole is not None or (column.compare is not None and column.side == "damage")):
            continue
        if (column.needs and column.needs not in reader.held_out.given) or column.name in lacking:
            continue
        if column.whole is not None:
            found = column.whole(base, gathered)
        else:
            found = cell_of(column, unrepaired.get(column.name), gathered.sums[column.name], weights)
        if isinstance(found, str):
            lacking[column.name] = found
        else:
            cells[column.name] = found
    return Measured(cells, lacking, gathered)


def cell_of(
    column: Column, before: Sums | None, after: Sums, weights: Int64[np.ndarray, "R n"] | None
) -> RepairCell | str:
    """Return a number with its interval, and its change with the interval of that; or why there is none.

    Args:
        before: of the model as it is; None where that has no such number.
        weights: resamples of the images; None for too few, which give no interval.
    """
    if not math.isfinite(after.value):
        return "no held-out image says anything about it"
    before = before if before is not None and math.isfinite(before.value) else None
    scale = 100.0 if column.unit == "%" else 1.0
    ends, change, apart, by = None, None, None, "bootstrap"
    if before is not None:
        change = scale * (after.value - before.value)
    if weights is not None:
        ends, apart, by = intervals_of(column, before, after, weights)
    return RepairCell(
        value=scale * after.value, low=ends and scale * ends[0], high=ends and scale * ends[1], change=change,
        change_low=apart and scale * apart[0], change_high=apart and scale * apart[1], by=by,
    )  # fmt: skip


Ends = tuple[float, float] | None


def intervals_of(
    column: Column, before: Sums | None, after: Sums, weights: Int64[np.ndarray, "R n"]
) -> tuple[Ends, Ends, Any]:
    """Return the interval of a number and that of its change, and how the first was made (`RepairCell.by`)."""
    ends, apart, by = interval(after.over(weights)), None, "bootstrap"
    if before is not None:
        apart = paired_change(before, after, weights)[1]
    if column.counts == "images":
        ends, by = wilson(round(after.numerators.sum()), round(after.denominators.sum())), "Wilson"
        apart = None if before is None else _difference(before, after)
    elif column.counts == "tokens":
        if ends is not None and ends[0] == ends[1]:
            ends, by = tokens_interval(after, before or after, weights), "Wilson, tokens"
        if before is not None and apart is not None and apart[0] == apart[1]:
            apart = tokens_difference(before, after, weights)
    elif column.counts == "fall":
        known = after.denominators > 0
        ends, by = paired_difference(after.numerators[known]), "Bonett-Price"
    return ends, apart, by


def _difference(before: Sums, after: Sums) -> Ends:
    both = (before.denominators > 0) & (after.denominators > 0)
    return paired_difference((after.numerators - before.numerators)[both]) if both.any() else None


def gather(reader: Reader, of: Reader | None) -> Gathered:
    """Run a model over the held-out images, beside the model as it is, and keep the sums of every column."""
    kept, parts = Gathered(), dict[str, list[PerImage]]()
    columns = list[Column]()
    for column in COLUMNS:
        if column.needs and column.needs not in reader.held_out.given:
            continue
        reason = column.lacks(reader) or ("" if of is None else column.lacks(of))
        if reason:
            kept.lacking[column.name] = reason
        else:
            columns.append(column)
    start = 0
    for images in reader.subject.batches("held_out"):
        after = reader.read(images, start)
        before = after if of is None else of.read(images, start)
        for column in columns:
            found = _of_batch(column, before, after)
            if found is not None:
                parts.setdefault(column.name, []).append(found)
        kept.keep(after, SHOWN)
        kept.identical &= _same(before.final.values, after.final.values)
        start += len(images)
    for column in columns:
        if column.run is not None:
            parts[column.name] = [column.run(reader)]
    kept.sums = {name: _joined(found) for name, found in parts.items()}
    return kept


def _of_batch(column: Column, before: Reading, after: Reading) -> PerImage | None:
    if column.measure is not None:
        return column.measure(after)
    return None if column.compare is None else column.compare(before, after)


def _joined(parts: list[PerImage]) -> Sums:
    above, below = (torch.cat([part[side].detach().cpu().double() for part in parts]).numpy() for side in (0, 1))
    return Sums(above, below)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other))
