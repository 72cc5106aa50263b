"""`evaluate`: one task on one model. Runs the task, and records numbers, protocol and controls."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.analysis.intervals import wilson
from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.features.key import hash_of_data
from vitreg.machine.runtime import Processes, processes, provenance
from vitreg.passes import ahead
from vitreg.passes.bench import Bench
from vitreg.passes.drawing import as_written, noted
from vitreg.passes.findings import refuse_broken_weights
from vitreg.passes.model_entry import model_entry
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.report import Attempts
from vitreg.report.evaluation.page import SHEETS, draw_evaluation
from vitreg.report.sheets.kept import as_kept
from vitreg.results import Cell, EvalData, EvalResult, Table
from vitreg.verbs.eval import registry
from vitreg.verbs.eval.options import EvalOptions
from vitreg.verbs.eval.registry import task_named
from vitreg.verbs.eval.task import Outcome, Task
from vitreg.writing.files import results_folder, texts
from vitreg.writing.outputs import RECORD, Outputs

LONGEST = 24  # rows of a table shown on the terminal


@takes(EvalOptions, ModelOptions)
def evaluate(
    model: str | nn.Module | Backbone,
    task: Task | str,
    data: str | Path = "",
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: EvalOptions | None = None,
    quiet: bool = True,
    **keywords: Any,
) -> EvalResult:
    """Measure a model's features by one task.

    Args:
        model: a spec such as "timm:vit_small_patch14_reg4_dinov2", a module, or a loaded backbone.
        task: name of a task such as "knn", with its settings as keywords, or a task with settings, such as
            `Knn(k=(20,))` of `vitreg.verbs.eval.tasks`.
        data: the data to measure on; each task says what it takes.
        out: folder for result.json, report.html and pictures; nothing is written without it.
        weights: a checkpoint for the spec.
        options: see `EvalOptions`; keywords override them.
        keywords: fields of `EvalOptions`, such as size and limit, and of `ModelOptions`, such as device and precision.
    Raises:
        UserError: for data or a model that the task cannot use.
    """
    if not isinstance(task, Task):
        task, keywords = task_named(task, keywords)
    options, load_options = split(EvalOptions, options, keywords, "evaluate")
    ahead.refuse_absent_inputs(files=[weights])
    ahead.refuse_absent_data(str(data))
    started = datetime.now(UTC)
    with results_folder(out) as folder, processes() as group:
        outputs = None if folder is None else ahead.eval_outputs(folder, data, weights)
        if outputs is not None and group.first:
            outputs.check()
        backbone = opened(model, weights, load_options, size=options.pixels)
        if folder is not None:
            ahead.refuse_other_eval(folder, task_name(type(task)), backbone.spec, str(data))
        refuse_broken_weights(backbone, "evaluation of")
        bench = _bench(backbone, str(data), options, group, quiet=quiet)
        outcome = registry.run(task_name(type(task)), task, bench)
        result = _record(task, bench, outcome, started, settings_of(task, options))
        if outputs is not None and group.first:
            outputs.publish(texts({RECORD: result.model_dump_json(indent=1)}), more=True)
            return _draw(outputs, result, outcome)
    return result


def _bench(backbone: Backbone, data: str, options: EvalOptions, group: Processes, *, quiet: bool) -> Bench:
    return Bench(
        backbone=backbone,
        data=data,
        listing=hash_of_data(data) if group.first else "",
        features=options.features or cache(),
        group=group,
        size=options.pixels,
        policy=options.fit,
        batch_size=options.batch_size,
        workers=options.workers,
        limit=options.limit,
        seed=options.seed,
        download=options.download,
        quiet=quiet,
    )


def settings_of(task: Task, options: EvalOptions) -> dict[str, Any]:
    """The settings that determine the numbers, as JSON holds them: those of the task, then those of the images."""
    images = {"size": options.pixels, **{name: getattr(options, name) for name in ("fit", "limit", "seed")}}
    asked = {**{each.name: getattr(task, each.name) for each in fields(task)}, **images}  # type: ignore[arg-type]
    return json.loads(json.dumps(asked, default=str))


def _record(task: Task, bench: Bench, outcome: Outcome, started: datetime, settings: dict[str, Any]) -> EvalResult:
    """Build the record: outcome, model, data and machine."""
    backbone = bench.backbone
    return EvalResult(
        task=task_name(type(task)),
        title=title_of(task),
        measured=getattr(task, "measured", ""),
        model=model_entry(backbone),
        data=_data(bench, outcome),
        headline=outcome.headline,
        metrics=dict(outcome.metrics),
        controls=dict(outcome.controls),
        intervals=_intervals(outcome),
        units=_units(outcome),
        larger_is_better=outcome.larger_is_better,
        answers_either_way=outcome.answers_either_way,
        protocol=dict(outcome.protocol),
        settings=settings,
        tables=list(outcome.tables),
        notes=list(dict.fromkeys((*bench.noted, *outcome.notes))),
        provenance=provenance(
            started=started,
            device=backbone.device,
            precision=str(backbone.dtype).removeprefix("torch."),
            choice=backbone.precision_choice,
            processes=bench.group.world,
            seed=bench.seed,
        ),
    )


def _draw(outputs: Outputs, result: EvalResult, outcome: Outcome) -> EvalResult:
    """Draw the page and the pictures of the task."""
    attempts, sheets = Attempts(), [(f"{name}.png", sheet) for name, sheet in outcome.sheets.items()]
    with outputs.adding() as place:
        draw_evaluation(as_written(result), as_kept(sheets, place, SHEETS, attempts), place, attempts)
        return noted(result, place / RECORD, attempts)


def cache() -> Path:
    """Return the default folder of stored features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitreg" / "features"


def task_name(kind: type) -> str:
    """Return a task's name on the command line: its class in lower case."""
    return kind.__name__.lower()


def title_of(task: Task) -> str:
    """Return a task's name on a page; empty for a task that says none."""
    return getattr(task, "title", "")


def _intervals(outcome: Outcome) -> dict[str, tuple[float, float]]:
    found = {name: wilson(round(outcome.metrics[name] * n / 100), n) for name, n in outcome.trials.items() if n}
    return {**{name: (100 * low, 100 * high) for name, (low, high) in found.items()}, **outcome.intervals}


def _units(outcome: Outcome) -> dict[str, str]:
    return {
        name: next((unit for pattern, unit in outcome.units.items() if fnmatchcase(name, pattern)), "%")
        for name in outcome.metrics
    }


def _data(bench: Bench, outcome: Outcome) -> EvalData:
    return EvalData(
        name=bench.data,
        counts=dict(outcome.counts),
        classes=outcome.classes,
        skipped=list(outcome.skipped),
        listing=bench.listing,
    )


def summary(result: EvalResult) -> str:
    """Format the numbers, the controls and the protocol as lines for a terminal."""
    lines = [f"{result.task} of {result.model.spec}" + (f" on {result.data.name}" if result.data.name else "")]
    width = max(map(len, [*result.metrics, *(f"control: {name}" for name in result.controls)]), default=0)
    for name, value in result.metrics.items():
        unit, interval = result.units.get(name, ""), result.intervals.get(name)
        sure = "" if interval is None else f"  ({shown(interval[0])} to {shown(interval[1], unit)})"
        mark = "  <-" if name == result.headline else ""
        lines.append(f"  {name:<{width}}  {shown(value, unit)}{sure}{mark}")
    unit = result.units.get(result.headline, "")
    lines += [f"  {'control: ' + name:<{width}}  {shown(value, unit)}" for name, value in result.controls.items()]
    for table in result.tables:
        lines += ["", *_laid_out(table), ""]
    protocol = {**result.protocol, "precision": result.provenance.precision}
    lines.append("protocol: " + ", ".join(f"{key} {_short(value)}" for key, value in protocol.items()))
    choice = result.provenance.precision_choice
    lines += [choice.sentence] if choice else []
    lines += result.notes
    if result.controls and not result.beats_controls and not result.answers_either_way:
        lines.append("WARNING: this does not beat its control, so it says nothing of the model; look for the reason.")
    if result.data.skipped:
        lines.append(f"{len(result.data.skipped)} images could not be read; they are listed in result.json.")
    return "\n".join([*lines, *(each.sentence for each in result.undrawn)])


def shown(value: float, unit: str = "") -> str:
    """Format a number with its unit in three significant digits, or four above 1000."""
    whole = abs(value) >= 1000
    digits = f"{value:,.0f}" if whole else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def _laid_out(table: Table) -> list[str]:
    """Format a table as lines of text; a long one is cut, as result.json has all of it."""
    cells = [[_cell(value) for value in row] for row in (table.columns, *table.rows[:LONGEST])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    more = len(table.rows) - LONGEST
    return [
        table.title,
        *(f"  {line}" for line in lines),
        *([f"  ... and {more} more in result.json"] if more > 0 else []),
    ]


def _cell(value: Cell) -> str:
    return "" if value is None else shown(value) if isinstance(value, float) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        words = [_short(each) for each in value]
        return " x ".join(words) if len(value) <= 6 else f"{words[0]} to {words[-1]} ({len(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
