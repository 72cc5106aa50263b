"""The history of a training run, from its folder, and when artifacts appeared (the paper, Sec. 2.1, Fig. 4b).

Everything comes from `config.json` and `metrics.jsonl` of the run, finished or not. Reading needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from vitreg.config import flatten, read
from vitreg.errors import UserError
from vitreg.records import Curve, NormsMoment, RunRecord, Watch
from vitreg.schedule import parse_duration, until_of
from vitreg.training.journal import read_journal, read_records
from vitreg.writing.files import printable


def read_run(folder: Path) -> RunRecord:
    """Read the records of a run so far.

    Raises:
        UserError: if the folder holds no run, no records yet, or records of an unknown version.
    """
    settings = read(folder / "config.json").get("train") if (folder / "config.json").is_file() else None
    if not isinstance(settings, dict):
        raise UserError(f"{folder} is no folder of a training run: it has no config.json with its settings.")
    records, unreadable = read_journal(folder)
    usable = [line for line in records if line["kind"] != "norms" or _moment(line) is not None]
    lines, unreadable = _in_order(usable), unreadable + len(records) - len(usable)
    if not lines and unreadable:
        raise UserError(f"not one of the {unreadable} lines of {folder / 'metrics.jsonl'} could be read.")
    if not lines:
        raise UserError(f"the run in {folder} has written nothing down yet.")
    flat = flatten(settings)
    epochs = next((epoch for line in reversed(lines) if (epoch := _epoch(line))), None)
    total = _total(flat, lines)
    try:
        return RunRecord(
            name=printable(folder.resolve().name),
            folder=printable(str(folder)),
            recipe=flat.get("recipe.kind", "unknown"),
            size=_size(flat),
            registers=None if flat.get("model.base") else flat.get("model.registers", 0),
            step=lines[-1]["step"],
            total=total,
            epochs=epochs,
            training=_curves_of(lines, "train"),
            evaluations=_curves_of(lines, "evaluation"),
            watched=_watch(lines, total),
            settings=flat,
            unreadable=unreadable,
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{folder / 'metrics.jsonl'} holds what cannot be read: {place}, {first['msg'].lower()}."
        ) from None


def watch_of(folder: Path) -> Watch | None:
    """Return the norms over the run in a folder, without maps; None if none were recorded.

    Raises:
        UserError: if they cannot be read.
    """
    found = read_run(folder).watched if read_records(folder, "norms") else None
    if found is None:
        return None
    return found.model_copy(update={"moments": [each.model_copy(update={"maps": []}) for each in found.moments]})


def _size(settings: dict[str, Any]) -> str:
    """Name the network, such as S/16, or by width and depth if its size has no name; another model by its SPEC."""
    if settings.get("model.base"):
        return f"{settings['model.base']} at {settings.get('model.image_size', '?')} px"
    letter, patch = settings.get("model.size", "?"), settings.get("model.patch", "?")
    changed = [f"{unit} {value}" for unit in ("width", "depth", "heads") if (value := settings.get(f"model.{unit}"))]
    return f"{letter}/{patch}" + (f" ({', '.join(changed)})" if changed else "")


def _in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort by step, keeping the last record of each kind per step."""
    latest = {(line["step"], line["kind"]): line for line in lines}
    return [latest[key] for key in sorted(latest)]


def _curves_of(lines: list[dict[str, Any]], kind: str) -> list[Curve]:
    """One curve for every number in a kind of record, in the order of first appearance."""
    lines = [line for line in lines if line["kind"] == kind]
    names = dict.fromkeys(key for line in lines for key, value in line.items() if key not in ("kind", "step"))
    found = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if all(value is None or isinstance(value, int | float) for _, value in points):
            values = [_finite(value) for _, value in points]
            found.append(Curve(name=name, steps=[step for step, _ in points], values=values))
    return found


def _total(settings: dict[str, Any], lines: list[dict[str, Any]]) -> int | None:
    """Steps of the whole run, from its duration, the epoch length in any record, and what ended it earlier."""
    epoch_steps = next((round(line["step"] / epoch) for line in reversed(lines) if (epoch := _epoch(line))), None)
    try:
        duration = parse_duration(settings["run.duration"])
        if duration.unit == "epochs" and epoch_steps is None:
            return None
        total = duration.steps(epoch_steps=epoch_steps or 1, batch=settings["run.batch"])
        until = until_of(
            settings.get("run.until"), settings.get("run.until_more", "0 steps"), epoch_steps=epoch_steps or 1,
            batch=settings["run.batch"], total=total,
        )  # fmt: skip
        end = None if until is None else until.end(lines)
        return total if end is None else min(end, total)
    except (KeyError, UserError):
        return None


def _epoch(line: dict[str, Any]) -> float | None:
    epoch = _finite(line.get("epoch"))
    return epoch if epoch is not None and epoch > 0 else None


def _finite(value: Any) -> float | None:
    """Return a finite float, None for anything else; JSON integers may exceed the range of float."""
    try:
        return value if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:
        return None


def _moment(line: dict[str, Any]) -> NormsMoment | None:
    """Return a norms record as a `NormsMoment`; None for an invalid one."""
    try:
        return NormsMoment.model_validate({key: value for key, value in line.items() if key != "kind"})
    except pydantic.ValidationError:
        return None


def _watch(lines: list[dict[str, Any]], total: int | None) -> Watch | None:
    norms = [line for line in lines if line["kind"] == "norms"]
    moments = [moment for line in norms if (moment := _moment(line)) is not None]
    if not moments:
        return None
    running = total is not None and lines[-1]["step"] < total
    return Watch(
        onset=onset(norms), sentence=onset_sentence(moments, onset(norms), total, running=running), moments=moments
    )


def onset(records: Sequence[dict[str, Any]]) -> int | None:
    """Return the step from which on every record of the run shows artifacts; None if the last one shows none.

    Args:
        records: of the kind "norms", in order.
    """
    first = None
    for record in records:
        if record["verdict"] == "none":
            first = None
        elif first is None:
            first = record["step"]
    return first


def onset_sentence(
    moments: Sequence[NormsMoment], start: int | None, total: int | None, *, running: bool = False
) -> str:
    """Say between which two looks artifacts appeared, and whether they had come and gone before.

    Args:
        moments: the looks, in order; at least one.
        start: the step that `onset` found.
        total: steps of the whole run, to say how far it had gone; None if unknown.
        running: the run has not ended, so the sentence covers only its steps so far.
    """
    last, so_far = moments[-1].step, " so far" if running else ""
    shown = [m.step for m in moments if m.verdict != "none"]
    if start is None:
        if not shown and running:
            return f"No artifacts so far: the last look was at step {last:,} of {total:,}, and the run is unfinished."
        if not shown:
            return f"No artifacts appeared up to step {last:,}."
        times = "one look" if len(shown) == 1 else f"{len(shown)} of {len(moments)} looks"
        return f"Artifacts showed in {times}, first at step {shown[0]:,}, and were gone at step {last:,}."
    before = [m.step for m in moments if m.step < start]
    earlier = [step for step in shown if step < start]
    if not before:
        return f"Artifacts were there at the first look, after {_steps(start)}" + (
            "." if start == last else f", and stayed{so_far}."
        )
    again = " again" if earlier else ""
    words = f"Artifacts appeared{again} between steps {before[-1]:,} and {start:,}"
    if total and last <= total:
        words += f", {100 * start / total:.0f} % into the run"
    words += ", at the last look." if start == last else f", and stayed{so_far}."
    return words + (f" They had come and gone before, first at step {earlier[0]:,}." if earlier else "")


def _steps(count: int) -> str:
    return f"{count:,} step" + ("" if count == 1 else "s")
