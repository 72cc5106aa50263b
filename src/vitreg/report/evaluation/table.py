"""Several evaluations as one table: a page, and a CSV file for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vitreg.quantities import short
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.evaluation.words import measure, title
from vitreg.report.scan import payload
from vitreg.report.words import count, number
from vitreg.results import EvalPair, Evaluations
from vitreg.writing.files import output_folder, write_text

PAGE, CSV = "report.html", "table.csv"
COLUMNS = (
    *("model", "task", "data", "metric", "value", "low", "high", "unit", "larger_is_better"),
    *("best_control", "control", "beats_controls", "train", "test", "registers", "precision", "weights_sha256"),
    *("folder", "failed"),
)


def draw_evaluations(result: Evaluations, directory: Path, attempts: Attempts) -> None:
    """Write the table as a page and as CSV into a folder.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory))
    attempts(CSV, lambda: write_text(folder / CSV, as_csv(result)))
    attempts(PAGE, lambda: shell.write(folder / PAGE, render(result, attempts)))


def as_csv(result: Evaluations) -> str:
    """Return CSV: a header, then one line for each pair; a value that was not measured is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for pair in result.pairs:
        low, high = pair.interval or (None, None)
        name, control = pair.control or (None, None)
        table.writerow(
            [
                *(pair.model, pair.task, result.data, pair.metric, pair.value, low, high, pair.unit),
                *(pair.larger_is_better, name, control, pair.beats_controls),
                *(pair.counts.get("train"), pair.counts.get("test"), pair.registers, pair.precision),
                *(pair.weights_sha256, pair.folder, pair.failed),
            ]
        )
    return text.getvalue()


def render(result: Evaluations, attempts: Attempts | None = None) -> str:
    """Return the page as text: a sentence for each task, then models down and tasks across."""
    tasks = list(dict.fromkeys(pair.task for pair in result.pairs))
    models = list(dict.fromkeys(pair.model for pair in result.pairs))
    by_task = {task: [pair for pair in result.pairs if pair.task == task] for task in tasks}
    sentences = [sentence(pairs) for pairs in by_task.values()]
    several = f"{count(len(models), 'model')}, {count(len(tasks), 'task')}"
    return shell.render(
        "evaluations.html.j2",
        result=result,
        heading=sentences[0] if len(sentences) == 1 else f"{several}{f' on {result.data}' if result.data else ''}.",
        sentences=sentences if len(sentences) > 1 else [],
        several=several,
        tasks=[(title(pairs[0]), next((p for p in pairs if not p.failed), None)) for pairs in by_task.values()],
        rows=[(model, _row(result.pairs, model, tasks)) for model in models],
        failed=[pair for pair in result.pairs if pair.failed],
        weak=any(pair.beats_controls is False for pair in result.pairs),
        undrawn=[] if attempts is None else attempts.failed,
        data=payload.empty_block(),
    )


def sentence(pairs: Sequence[EvalPair]) -> str:
    """Say which model is best at one task, and whether its interval is apart from the next one's."""
    found = sorted(
        (pair for pair in pairs if pair.value is not None),
        key=lambda pair: -(pair.value or 0.0) if pair.larger_is_better else (pair.value or 0.0),
    )
    name = title(pairs[0])
    if not found:
        return f"{name}: no model could be measured."
    first = found[0]
    value = measure(first.value, first.unit)
    if first.beats_controls is False:
        return f"{name}: {first.model} has {value}, which is no better than a control."
    if len(found) == 1:
        return f"{name}: {first.model} has {value}."
    second = found[1]
    next_ = measure(second.value, second.unit)
    if first.value == second.value:
        return f"{name}: {first.model} and {second.model} both have {value}."
    if value == next_:
        value, next_ = _told_apart(first, second)
    told = ""
    if first.interval and second.interval:
        apart = first.interval[0] > second.interval[1] or first.interval[1] < second.interval[0]
        told = "" if apart else "; their intervals overlap"
    return f"{name}: {first.model} is best with {value}, {second.model} has {next_}{told}."


def _told_apart(first: EvalPair, second: EvalPair) -> tuple[str, str]:
    """Write two values that differ with as many digits as show it."""
    values = [each.value or 0.0 for each in (first, second)]
    written = ([short(value, digits) for value in values] for digits in range(4, 18))
    texts = next((texts for texts in written if texts[0] != texts[1]), [repr(value) for value in values])
    return f"{texts[0]} {first.unit}".rstrip(), f"{texts[1]} {second.unit}".rstrip()


def _row(pairs: Sequence[EvalPair], model: str, tasks: Sequence[str]) -> list[dict[str, Any]]:
    own = {pair.task: pair for pair in pairs if pair.model == model}
    titles = {pair.task: title(pair) for pair in pairs}
    return [_cell(own[task], pairs) if task in own else {"title": titles[task], "value": ""} for task in tasks]


def _cell(pair: EvalPair, pairs: Sequence[EvalPair]) -> dict[str, Any]:
    values = [each.value for each in pairs if each.task == pair.task and each.value is not None]
    best = None if not values else max(values) if pair.larger_is_better else min(values)
    return {
        "title": title(pair),
        "value": "failed" if pair.failed else measure(pair.value, pair.unit),
        "interval": f"{number(pair.interval[0])} to {number(pair.interval[1])}" if pair.interval else "",
        "control": "" if pair.control is None else f"{pair.control[0]} {measure(pair.control[1], pair.unit)}",
        "weak": pair.beats_controls is False,
        "best": pair.value is not None and pair.value == best and len(values) > 1,
        "link": "" if pair.failed else f"{quote(pair.folder)}/{PAGE}",
    }
