"""`lab report`: what the runs of a design say so far, as a record, a page and two tables. Nothing is trained."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitreg.analysis.intervals import wilson
from vitreg.data.sets.synthetic.retrieval import least_error
from vitreg.errors import UserError
from vitreg.experiments.lab.design import Cell, Design, Key, Run
from vitreg.experiments.lab.hours import steps_of
from vitreg.experiments.lab.looks import course_of, looked_at
from vitreg.experiments.lab.reading import KEPT, design_in
from vitreg.experiments.lab.said import METRIC, has_error, judged
from vitreg.experiments.lab.statistics.answers import Found, answers_of, changed
from vitreg.experiments.lab.statistics.effects import counts, effects_of, usable
from vitreg.experiments.lab.statistics.ledger import searched
from vitreg.passes import ahead
from vitreg.passes.drawing import as_written, noted
from vitreg.passes.jobs import Jobs
from vitreg.quantities import count
from vitreg.records.lab import OUTCOMES, DesignRun, LabCell, LabReport, Share
from vitreg.report.attempts import Attempts
from vitreg.report.lab.page import draw_lab
from vitreg.training.history import read_run
from vitreg.writing.files import texts
from vitreg.writing.outputs import RECORD, Outputs

BIRTHS = "births/report.html"
"""The curves of the first runs, which `lab born` draws."""


def report(folder: Path) -> LabReport:
    """Write what the runs in a folder say so far; see `vitreg.lab`.

    Raises:
        UserError: for a folder that holds no design of `lab run`, or cannot be written.
    """
    design = design_in(folder)
    ahead.refuse_other_lab(folder)
    outputs = ahead.design_outputs(folder)
    outputs.check()
    with Jobs(folder) as jobs:
        result = found_in(design, jobs)
        if (folder / BIRTHS).is_file():
            result = result.model_copy(update={"births": BIRTHS})
        with jobs.alone():  # another process on this folder may end at the same moment
            return _written(outputs, result, (folder / KEPT).read_text(encoding="utf-8"))


def _written(outputs: Outputs, result: LabReport, design: str) -> LabReport:
    """Write the record, and the design again beside it, then tables and page."""
    outputs.publish(texts({RECORD: result.model_dump_json(indent=1), KEPT: design}), more=True)
    attempts = Attempts()
    with outputs.adding() as place:
        draw_lab(as_written(result), place, attempts)
        return noted(result, place / RECORD, attempts)


def found_in(design: Design, jobs: Jobs) -> LabReport:
    """Return what the runs of a design say, from their rows and records."""
    numbers = {key: number for number, key in enumerate(design.cells)}
    runs = _runs(design, numbers, jobs)
    every = [float(steps_of(design.runs[0].config.run.evaluate_every, design.runs[0].config))]
    every.append(float(steps_of(design.runs[0].config.run.watch_every, design.runs[0].config)))
    cells = [
        _cell(cell, seeds, [run for run in runs if run.cell == numbers[key]], design, numbers)
        for key, (cell, seeds) in design.cells.items()
    ]
    effects = effects_of(design, numbers, runs, every[0])
    found = Found(cells, effects, runs, numbers.get(()), max(every))
    if any(map(has_error, design.runs)):
        said, answers = sentence(found, len(design.runs)), answers_of(found)
    else:
        answers = [searched(runs, len(design.runs), design.hours)]
        said = answers[0].sentence
    return LabReport(
        title=design.title, sentence=said, steps=design.steps, asked=len(design.runs), ended=len(runs),
        hours=sum(run.seconds for run in runs) / 3600, cells=cells, effects=effects, answers=answers, runs=runs,
    )  # fmt: skip


def _runs(design: Design, numbers: Mapping[Key, int], jobs: Jobs) -> list[DesignRun]:
    """Return what became of the runs that ended; one that goes on knows how the run before it ended."""
    found: dict[str, DesignRun] = {}
    for run in design.runs:
        own = _run(run, numbers[run.cell.key], jobs)
        if own is not None and run.source is not None:
            before = found.get(run.source.job.key)
            known = before is not None and not before.failed and before.course is not None and before.course.ratio
            began = before.last_ratio if before is not None and known else None
            own = own.model_copy(update={"after": numbers[run.source.cell.key], "began": began})
        if own is not None:
            found[run.job.key] = own
    return list(found.values())


def _run(run: Run, cell: int, jobs: Jobs) -> DesignRun | None:
    """Return what became of a run; None if it has not ended."""
    row = jobs.row(run.job)
    if row is None:
        return None
    named = {
        "name": run.name,
        "registers": run.registers,
        "seed": run.seed,
        "cell": cell,
        "folder": jobs.within(str(jobs.files(run.job))) or "",
        "seconds": row.found.get("core_seconds", row.seconds),
    }
    if row.failed:
        return DesignRun(**named, failed=row.failed)
    try:
        record = read_run(jobs.files(run.job))
    except UserError as error:  # its folder was removed, or it diverged before it wrote anything
        return DesignRun(**named, failed=row.found.get("diverged") or error.sentence)
    diverged, end = str(row.found.get("diverged", "")), row.found.get("steps", record.step)
    if not diverged and not looked_at(record, end):
        return DesignRun(
            **named,
            failed=f"its metrics.jsonl holds no look at the norms of its last step, {end:,}, so it is not judged.",
        )
    base = judged(run, record, named["seconds"], bool(diverged))
    return DesignRun(
        **base.model_dump(), cell=cell, folder=named["folder"], diverged=diverged, course=course_of(record, METRIC)
    )


def _cell(
    cell: Cell, seeds: Sequence[int], runs: Sequence[DesignRun], design: Design, numbers: Mapping[Key, int]
) -> LabCell:
    past = [run for run in runs if counts(run)]
    solved = [run for run in past if run.solved is not None]
    hits = sum(run.outcome == "artifacts" if cell.after else run.onset is not None for run in past)
    outcomes = Counter(run.outcome for run in runs if not run.failed)
    return LabCell(
        name=cell.name, changes={name: str(value) for name, value in cell.changes.items()}, seeds=list(seeds),
        outcomes={name: outcomes[name] for name in OUTCOMES if outcomes[name]}, failed=sum(bool(run.failed) for run in runs),
        artifacts=_share(hits, len(past)) if past else None, ratio=_geometric([run.peak_ratio for run in past]),
        last=_geometric([run.last_ratio for run in past]), after=None if cell.after is None else numbers[cell.after.key],
        solved=None if cell.after else _mean([run.solved for run in runs if usable(run)]), error=_geometric([run.error for run in solved]),
        background=_mean([run.background and run.background.attention for run in solved]),
        registers=_mean([run.registers_hold and run.registers_hold.attention for run in solved]),
        values=_mean([run.background and run.background.values for run in solved]), least=least_error(design.parameters(cell)),
        foreground=_mean([run.foreground and run.foreground.attention for run in solved]),
        registers_values=_mean([run.registers_hold and run.registers_hold.values for run in solved]),
        registers_norm=_mean([run.registers_hold and run.registers_hold.norm for run in solved]),
        largest=_mean([run.registers_share and run.registers_share.largest for run in solved]),
        effective=_mean([run.registers_share and run.registers_share.effective for run in solved]),
    )  # fmt: skip


def _share(hits: int, of: int) -> Share:
    low, high = wilson(hits, of)
    return Share(hits=hits, of=of, low=low, high=high)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _geometric(values: Sequence[float | None]) -> float | None:
    logs = [math.log(value) for value in values if value]
    return math.exp(statistics.fmean(logs)) if logs else None


def sentence(found: Found, asked: int) -> str:
    """Say first what the design shows: artifacts in the base, and what changes them."""
    of = "" if len(found.runs) == asked else f" {len(found.runs)} of {count(asked, 'run')} ended so far."
    base = None if found.base is None else found.cells[found.base]
    if base is None or base.artifacts is None:
        return f"No run of the base is past its onset, so nothing can be said yet.{of}"
    known = [(each, each.measures.get("ratio")) for each in found.changes()]
    fewer, more = (
        [changed(each) for each, ratio in known if ratio and ratio.decided and (ratio.value < 1) == less]
        for less in (True, False)
    )
    gone = base.outcomes.get("dissolved", 0)
    stayed = f", and dissolved again in {gone}" if gone else ""
    came = f"{base.artifacts.hits} of {count(base.artifacts.of, 'run')}"
    parts = [f"Artifacts came in {came} of the base ({base.name}){stayed}."]
    parts += [f"The largest norms are smaller with {_and(fewer)}."] if fewer else []
    parts += [f"They are larger with {_and(more)}."] if more else []
    left = len(known) - len(fewer) - len(more)
    parts += [f"Of {count(len(known), 'change')}, {left} {'is' if left == 1 else 'are'} undecided."] if left else []
    return " ".join(parts) + of


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
