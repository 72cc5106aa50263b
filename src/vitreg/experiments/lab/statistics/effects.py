"""The table of a design: each level of a factor against the base's, at the levels of the others and on average, over seeds, and
how the effect of one factor differs between the levels of another.

Norms and errors are compared by their logarithms, so an effect is a factor; steps by their difference. A run counts for
the largest norm once it is past its onset, and for the error once it has solved the task. For the steps a run that never solved
it counts with its last step (a mean restricted to the length of a run), and the row says how many did. Artifacts of such a run
may still have grown: norms are not decided to be smaller by it. Runs that go on from others are compared by their norms at the
last look and by their last error, where the run before them ended with artifacts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vitreg.experiments.lab.design import Design, Key
from vitreg.experiments.lab.said import ARTIFACT
from vitreg.experiments.lab.statistics.contrasts import Contrast, contrast, exact_p, holm
from vitreg.experiments.lab.statistics.rows import Row, rows_of
from vitreg.records.lab import MEASURES, DesignRun, Effect, Estimate, Measure

LEVEL = 0.05
OF_ANEW: tuple[Measure, ...] = ("ratio", "solved", "error")
OF_GOING_ON: tuple[Measure, ...] = ("last", "error")
JUDGED = ("artifacts", "dissolved", "none")


def effects_of(design: Design, numbers: Mapping[Key, int], runs: Sequence[DesignRun], rounding: float) -> list[Effect]:
    """Return the table.

    Args:
        numbers: the index of each cell, by its key.
        runs: those that ended.
        rounding: steps between two evaluations.
    """
    by_cell: dict[int, list[DesignRun]] = {}
    for run in runs:
        by_cell.setdefault(run.cell, []).append(run)
    rows = list(rows_of(design, numbers))
    found: list[dict[Measure, Estimate]] = [{} for _ in rows]
    for measure in MEASURES:
        values = {cell: values_of(measure, each) for cell, each in by_cell.items()}
        estimates = [_estimate(measure, row, values, by_cell, rounding) for row in rows]
        adjusted = holm([each.p if each else None for each in estimates])
        for place, (each, p) in enumerate(zip(estimates, adjusted, strict=True)):
            if each is not None:
                decided = p is not None and p < LEVEL and (each.exact is None or each.exact < LEVEL)
                decided = decided and not _may_grow(measure, rows[place], each.value, by_cell)
                found[place][measure] = each.model_copy(update={"adjusted": p, "decided": decided})
    return [_effect(row, measures) for row, measures in zip(rows, found, strict=True)]


def values_of(measure: Measure, runs: Sequence[DesignRun]) -> list[float]:
    """Return what the runs of a cell say of a measure; those that say nothing of it are left out."""
    if measure == "last":
        return [math.log(each.last_ratio) for each in runs if counts(each) and each.last_ratio > 0]
    if measure == "ratio":
        return [math.log(each.peak_ratio) for each in runs if counts(each) and each.peak_ratio > 0]
    if measure == "error":
        return [math.log(each.error) for each in runs if each.solved is not None and each.error and usable(each)]
    return [float(each.steps if each.solved is None else each.solved) for each in runs if usable(each)]


def usable(run: DesignRun) -> bool:
    """Whether a run ended as it should."""
    return not run.failed and run.outcome != "diverged"


def counts(run: DesignRun) -> bool:
    """Whether a run is past its onset: it has artifacts, or has solved its task without; if it goes on, the run before it had
    artifacts at its end.
    """
    if run.after is not None and (run.began is None or run.began <= ARTIFACT):
        return False
    return not run.failed and run.outcome in JUDGED


def _estimate(
    measure: Measure,
    row: Row,
    values: Mapping[int, Sequence[float]],
    by_cell: Mapping[int, Sequence[DesignRun]],
    rounding: float,
) -> Estimate | None:
    """Return the estimate of a row; None where a cell has no run that says something, or the measure says nothing of the row."""
    if measure not in (OF_GOING_ON if row.after is not None else OF_ANEW):
        return None
    groups = [values.get(cell, ()) for pair in row.pairs for cell in pair]
    if not all(groups):
        return None
    weights = [sign * row.weight for _ in row.pairs for sign in (1, -1)]
    found = contrast(groups, weights, rounding if measure == "solved" else 0.0)
    if measure != "solved":
        found = _as_factor(found)
    runs = [run for pair in row.pairs for cell in pair for run in by_cell.get(cell, ())]
    counted = {"solved": usable, "ratio": counts}.get(measure)
    censored = sum(run.solved is None and counted(run) for run in runs) if counted else 0
    return Estimate(
        value=found.value, low=found.low, high=found.high, p=found.p,
        exact=exact_p(groups[0], groups[1]) if len(groups) == 2 else None,
        runs=(sum(map(len, groups[::2])), sum(map(len, groups[1::2]))), left_out=len(runs) - sum(map(len, groups)), censored=censored,
    )  # fmt: skip


def _may_grow(measure: Measure, row: Row, value: float, by_cell: Mapping[int, Sequence[DesignRun]]) -> bool:
    """Whether the side with the smaller norms has runs that did not solve the task: their norms may still have grown.

    An interaction has no smaller side: any such run counts.
    """
    smaller = [cell for pair in row.pairs for cell in (pair if row.interaction else pair[value >= 1 :][:1])]
    return measure == "ratio" and any(
        run.solved is None and counts(run) for cell in smaller for run in by_cell.get(cell, ())
    )


def _as_factor(found: Contrast) -> Contrast:
    low, high = (None if each is None else math.exp(min(each, 700.0)) for each in (found.low, found.high))
    return Contrast(math.exp(found.value), low, high, found.p)


def _effect(row: Row, measures: dict[Measure, Estimate]) -> Effect:
    return Effect(
        block=row.block, factor=row.factor, level=row.level, against=row.against, where=row.where, after=row.after,
        average=len(row.pairs) > 1 and not row.interaction, interaction=row.interaction,
        cells=([one for one, _ in row.pairs], [other for _, other in row.pairs]), measures=measures,
    )  # fmt: skip
