"""The numbers of one row: a repaired model beside the model as it is, on the same held-out images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vitreg.analysis.intervals import paired_difference, wilson
from vitreg.analysis.paired import FEWEST, RESAMPLES, Sums, interval, paired_change, resamples
from vitreg.repair.columns import attention, boxes, cost, heads, int8, outliers, positions, restored, smoothing, summary
from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.reading import Gathered, Reader, Reading
from vitreg.results import RepairCell, RepairColumn

COLUMNS: tuple[Column, ...] = (
    *outliers.COLUMNS[:4], *restored.COLUMNS, *attention.COLUMNS, *boxes.COLUMNS, *int8.COLUMNS, *positions.COLUMNS,
    *outliers.COLUMNS[4:], *summary.COLUMNS, *heads.COLUMNS, *smoothing.COLUMNS,
)  # fmt: skip
SHOWN = 4  # images whose maps are kept


def column_records() -> list[RepairColumn]:
    """Return the entries of all columns: gains, damages, costs."""
    return [*(column.record for column in COLUMNS), *cost.COLUMNS]


@dataclass(frozen=True)
class Measured:
    """One row's numbers, and what stays of its pass for rows after it."""

    cells: dict[str, RepairCell]
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
    base = gathered if base is None else base
    count = len(next(iter(gathered.sums.values())).numerators)
    weights = resamples(count, RESAMPLES, reader.subject.seed) if count >= FEWEST else None
    cells: dict[str, RepairCell] = {}
    for column in COLUMNS:
        if alone and (column.whole is not None or (column.compare is not None and column.side == "damage")):
            continue
        if column.name in gathered.sums:
            scale = 100.0 if column.unit == "%" else 1.0
            cell = cell_of(base.sums.get(column.name), gathered.sums[column.name], weights, scale, trials=column.trials)
        else:
            cell = None if column.whole is None or not column.asks(reader) else column.whole(base, gathered)
        if cell is not None:
            cells[column.name] = cell
    return Measured(cells, gathered)


def cell_of(
    before: Sums | None, after: Sums, weights: Int64[np.ndarray, "R n"] | None, scale: float, *, trials: bool = False
) -> RepairCell | None:
    """Return a number with its interval, and its change with the interval of that; None if no image says anything.

    Args:
        weights: resamples of the images; None for too few, which give no interval.
        scale: 100 for a share in percent.
        trials: every image is right or wrong.
    """
    if not math.isfinite(after.value):
        return None
    ends, change, apart = None, None, None
    if weights is not None:
        ends = _share(after) if trials else interval(after.over(weights))
    if before is not None and math.isfinite(before.value):
        change = scale * (after.value - before.value)
    if weights is not None and before is not None and change is not None:
        apart = _difference(before, after) if trials else paired_change(before, after, weights)[1]
    return RepairCell(
        value=scale * after.value, low=ends and scale * ends[0], high=ends and scale * ends[1], change=change,
        change_low=apart and scale * apart[0], change_high=apart and scale * apart[1],
    )  # fmt: skip


def _share(sums: Sums) -> tuple[float, float]:
    return wilson(round(sums.numerators.sum()), round(sums.denominators.sum()))


def _difference(before: Sums, after: Sums) -> tuple[float, float] | None:
    both = (before.denominators > 0) & (after.denominators > 0)
    return paired_difference((after.numerators - before.numerators)[both]) if both.any() else None


def gather(reader: Reader, of: Reader | None) -> Gathered:
    """Run a model over the held-out images, beside the model as it is, and keep the sums of every column."""
    kept, parts = Gathered(), dict[str, list[PerImage]]()
    columns = [column for column in COLUMNS if column.asks(reader) and (of is None or column.asks(of))]
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
