"""Fig. 10: where outliers sit on the grid. Some places hold one in more than 20 % of the images; the border holds more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitreg.analysis.intervals import wilson
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import note_of, of_verdict, too_few, without_outliers
from vitreg.experiments.records import scans_drawn
from vitreg.quantities import percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

CROWDED = Says(
    id="crowded",
    says="At some positions more than 20 % of the tokens are outliers.",
    criterion="the fullest cell holds an outlier in more than 20 % of the images, interval for all cells at once (Wilson, Bonferroni)",
    paper="more than 20 %",
)
BORDER = Says(
    id="border",
    says="Outliers appear more often near the border than in the centre.",
    criterion="the outermost ring of cells holds a larger share of the outliers than of the cells; interval over the images with "
    "outliers (Wilson)",
)
TWENTY = 0.2


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and read the share of images with an outlier in each cell."""
    result, job = setting.scan(model)
    numbers: dict[str, float | None] = {**of_verdict(result), "images": float(result.images.seen), "fullest": None}
    if result.positions is not None and numbers["outliers"]:
        cells = np.asarray(result.positions.values, dtype=np.float64)
        ring = np.ones(cells.shape, dtype=bool)
        ring[1:-1, 1:-1] = False
        numbers |= {
            "fullest": float(cells.max()), "cells": float(cells.size), "ring_cells": float(ring.mean()),
            "ring_outliers": float(cells[ring].sum() / cells.sum()) if cells.sum() else None,
            "with_outliers": float(sum(result.per_image.counts[1:])) if result.per_image else 0.0,
        }  # fmt: skip
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs={"scan": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by its fullest cell, and by the outermost ring."""
    return [*CROWDED.of_each(measured, _crowded), *BORDER.of_each(measured, _border)]


def _crowded(found: Measured) -> Claim:
    fullest, images = found.numbers["fullest"], found.numbers["images"] or 0.0
    absent = without_outliers(CROWDED, found)
    if absent is not None or fullest is None:
        return absent or CROWDED.outcome(found.subject, None, "The scan kept no positions.")
    # The fullest of many cells is full by chance too, so the interval is that of all cells at once (Bonferroni).
    low, high = wilson(round(fullest * images), images, of=int(found.numbers["cells"] or 1))
    words = (
        f"The fullest cell holds one in {percent(fullest)} ({percent(low)} to {percent(high)}, for all cells at once) of "
        f"{images:.0f} images"
    )
    return CROWDED.decided(found.subject, fullest, (low, high), words, above=TWENTY, write=percent)


def _border(found: Measured) -> Claim:
    absent = without_outliers(BORDER, found)
    if absent is not None or found.numbers["fullest"] is None:
        return absent or BORDER.outcome(found.subject, None, "The scan kept no positions.")
    ring, cells, images = (found.numbers.get(name) for name in ("ring_outliers", "ring_cells", "with_outliers"))
    if ring is None or cells is None or not images:
        return BORDER.outcome(found.subject, None, "No image holds an outlier at the block where they stand out most.")
    if (few := too_few(BORDER, found, images)) is not None:
        return few
    low, high = wilson(ring * images, images)
    words = f"{percent(ring)} ({percent(low)} to {percent(high)}) of the outliers lie in the ring, which is {percent(cells)} of the cells"
    return BORDER.decided(found.subject, ring, (low, high), words, above=cells, write=percent)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The map of positions of each model that has outliers."""
    from vitreg.report.scan.charts import positions

    return scans_drawn(record, jobs, positions.figure, lambda found: found.numbers["fullest"] is not None)


EXPERIMENT = Experiment(
    id="fig10", label="Fig. 10", title="Where outliers sit", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"model": "DINOv2 ViT-g/14", "fullest": "more than 20 %", "pattern": "vertical stripes without antialiasing, none with it"},
    protocol="Share of images whose token at a position has a norm above the cutoff; official weights beside a training with antialiasing.",
    ours="The share of images with an outlier in each cell, at the block where outliers stand out most. Stripes: see Fig. 11.",
)  # fmt: skip
