"""`lab born`: the smallest design, runs without and with registers beside each other, and the page of their births."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitreg.experiments.lab.design import Block, Design, Factor, Level, Run
from vitreg.experiments.lab.options import LabOptions
from vitreg.experiments.lab.runs import train_all
from vitreg.experiments.lab.said import judged, line
from vitreg.passes import ahead
from vitreg.passes.drawing import noted
from vitreg.passes.jobs import Jobs, Row
from vitreg.records import RunRecord
from vitreg.records.lab import BornRun, Lab
from vitreg.report.attempts import Attempts
from vitreg.training.history import read_run
from vitreg.verbs.curves import MOST_RUNS
from vitreg.writing.files import output_folder, write_text
from vitreg.writing.outputs import RECORD, Outputs


def design_of(options: LabOptions) -> Design:
    """Return the design: numbers of registers, and nothing else varies."""
    levels = [Level(str(count), {"model.registers": count}) for count in dict.fromkeys(options.registers)]
    block = Block("registers", (Factor("registers", tuple(levels)),), tuple(range(options.seeds)))
    return Design(name="born", title="born", base={}, blocks=(block,), steps=options.steps, where="vitreg lab born")


def born(options: LabOptions, out: Path, told: Callable[[str], object]) -> Lab:
    """Train the runs, and draw what happened; see `vitreg.lab`."""
    folder = output_folder(out)
    ahead.refuse_other_lab(folder, "vitreg.lab/1")
    outputs = ahead.born_outputs(folder)
    outputs.check()
    runs = design_of(options).runs
    with Jobs(folder) as jobs:
        places = {run.name: jobs.files(run.job) for run in runs}
    rows = train_all(runs, folder, options.processes, lambda: told(line(places)))
    found = [_judged(run, row, places[run.name]) for run, row in zip(runs, rows, strict=True)]
    return _written(outputs, Lab(experiment="born", runs=[each for each, _ in found]), [r for _, r in found if r])


def _judged(run: Run, row: Row, place: Path) -> tuple[BornRun, RunRecord | None]:
    if row.failed:
        return BornRun(name=run.name, registers=run.registers, seed=run.seed, failed=row.failed), None
    record = read_run(place).model_copy(update={"name": run.name})
    return judged(run, record, row.seconds, "diverged" in row.found), record


def _written(outputs: Outputs, result: Lab, records: list[RunRecord]) -> Lab:
    """Write the record, then the page and the picture of the first runs, as many as a chart can tell apart."""
    from vitreg.report import draw_curves

    outputs.publish(lambda place: write_text(place / RECORD, result.model_dump_json(indent=1)), more=True)
    attempts = Attempts()
    with outputs.adding() as place:
        if records:
            draw_curves(records[:MOST_RUNS], place, attempts)
        return noted(result, place / RECORD, attempts)
