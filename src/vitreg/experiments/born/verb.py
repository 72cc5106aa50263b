"""`lab`: trains small ViTs in which artifacts are born, and draws what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitreg.experiments.born.options import LabOptions, refuse_unknown
from vitreg.experiments.born.runs import Born, runs_of, train_all
from vitreg.experiments.born.said import judged, line
from vitreg.passes.drawing import noted
from vitreg.passes.jobs import Jobs, Row
from vitreg.passes.options import split, takes
from vitreg.records import RunRecord
from vitreg.records.lab import BornRun, Lab
from vitreg.report.attempts import Attempts
from vitreg.training.history import read_run
from vitreg.verbs.curves import MOST_RUNS
from vitreg.writing.files import output_folder, write_text
from vitreg.writing.outputs import RECORD, Outputs

FILES = (RECORD, "report.html", "curves.png")


@takes(LabOptions)
def lab(
    experiment: str = "born",
    *,
    out: str | Path,
    options: LabOptions | None = None,
    told: Callable[[str], object] = lambda line: None,
    **keywords: Any,
) -> Lab:
    """Train small ViTs without and with registers beside each other until their task is solved, and draw what happened.

    Args:
        experiment: "born".
        out: folder for result.json, report.html, curves.png, and jobs/ and runs/, from which an interrupted experiment goes
            on.
        told: called every few seconds with a line on each run: step, error, largest norm / median, attention.
        options: see `LabOptions`; keywords override them.
    Returns:
        the record; a run that fails is a row with the reason.
    Raises:
        UserError: for an unknown experiment, settings out of range, or a folder that cannot be written.
    """
    refuse_unknown(experiment)
    options, _ = split(LabOptions, options, keywords, "lab")
    folder = output_folder(Path(out))
    outputs = Outputs(folder, "lab", FILES)
    outputs.check()
    runs = runs_of(options)
    with Jobs(folder) as jobs:
        places = {run.name: jobs.files(run.job) for run in runs}
    rows = train_all(runs, folder, options.processes, lambda: told(line(places)))
    found = [_judged(run, row, places[run.name]) for run, row in zip(runs, rows, strict=True)]
    return _written(outputs, Lab(experiment=experiment, runs=[each for each, _ in found]), [r for _, r in found if r])


def _judged(run: Born, row: Row, place: Path) -> tuple[BornRun, RunRecord | None]:
    if row.failed:
        return BornRun(name=run.name, registers=run.registers, seed=run.seed, failed=row.failed), None
    record = read_run(place).model_copy(update={"name": run.name})
    return judged(run, record, row.seconds), record


def _written(outputs: Outputs, result: Lab, records: list[RunRecord]) -> Lab:
    """Write the record, then the page and the picture of the first runs, as many as a chart can tell apart."""
    from vitreg.report import draw_curves

    outputs.publish(lambda place: write_text(place / RECORD, result.model_dump_json(indent=1)), more=True)
    attempts = Attempts()
    with outputs.adding() as place:
        if records:
            draw_curves(records[:MOST_RUNS], place, attempts)
        return noted(result, place / RECORD, attempts)
