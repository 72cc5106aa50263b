"""`lab born`: the smallest design, runs without and with registers beside each other, and the page of their births."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from vitreg.experiments.lab.design import Design
from vitreg.experiments.lab.options import LabOptions
from vitreg.experiments.lab.reading import design_of
from vitreg.experiments.lab.report import report
from vitreg.experiments.lab.running import begun, places_of
from vitreg.experiments.lab.runs import train_all
from vitreg.experiments.lab.said import line
from vitreg.passes import ahead
from vitreg.passes.jobs import Jobs
from vitreg.records.lab import LabReport
from vitreg.verbs.curves import MOST_RUNS, curves

TITLE = "Artifacts born in training, and registers"


def data_of(options: LabOptions) -> dict[str, Any]:
    """Return the design as a file would hold it: numbers of registers, and nothing else varies."""
    numbers = list(dict.fromkeys(options.registers))
    return {
        "title": TITLE, "seeds": options.seeds, "steps": options.steps, "base": {"registers": numbers[0]},
        "block": [{"name": "registers", "factors": {"registers": numbers}}],
    }  # fmt: skip


def born_design(options: LabOptions) -> Design:
    """Return the design of `lab born`."""
    return design_of(data_of(options), "born", "vitreg lab born")


def born(options: LabOptions, out: Path, told: Callable[[str], object]) -> LabReport:
    """Train the runs, and draw what happened; see `vitreg.lab`."""
    design = born_design(options)
    ahead.births_outputs(out).check()
    folder = begun(design, data_of(options), out)
    places = places_of(design, folder)
    for row in train_all(design.runs, folder, options.processes, lambda: told(line(places))):
        if row.failed:
            told(f"{row.name}: {row.failed}")
    _draw_births(design, folder)
    return report(folder)


def _draw_births(design: Design, folder: Path) -> None:
    """Draw the first runs in full, as many as a chart can tell apart."""
    with Jobs(folder) as jobs:
        rows = [(run.name, jobs.row(run.job), jobs.files(run.job)) for run in design.runs]
    ended = {
        name: place
        for name, row, place in rows
        if row is not None and not row.failed and (place / "metrics.jsonl").is_file()
    }
    if ended:
        curves(dict(islice(ended.items(), MOST_RUNS)), out=folder / "births")
