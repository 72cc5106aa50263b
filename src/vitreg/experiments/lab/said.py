"""What became of a run of the lab, from its records: numbers, a sentence, and the line while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitreg.experiments.lab.design import Run
from vitreg.experiments.lab.factors import SOLVED
from vitreg.experiments.lab.looks import course_of, largest, looked, shared, sink, sinks
from vitreg.quantities import number
from vitreg.records import NormsMoment, RunRecord
from vitreg.records.lab import BornRun, Outcome
from vitreg.training.journal import read_records

METRIC, BOUND = SOLVED.split(" < ")[0], float(SOLVED.split(" < ")[1])
ARTIFACT = 5.0
"""Largest norm of an image over its median, median over images: artifacts lie above (as in the pilot)."""


def judged(run: Run, record: RunRecord, seconds: float, diverged: bool = False) -> BornRun:
    """Return what became of a run that ended, by its whole course.

    A run without artifacts that has not solved its task is before its onset, and so says nothing yet. A run of another preset
    has no error to be solved by, and says what its whole length shows.
    """
    course = course_of(record, METRIC)
    peak, at = max(zip(course.ratio, course.looks, strict=True), default=(0.0, 0))
    pairs = [(step, value) for step, value in zip(course.evaluated, course.error, strict=True) if value is not None]
    solved = next((step for step, value in pairs if value < BOUND), None)
    moments = record.watched.moments if record.watched else []
    last = course.ratio[-1] if course.ratio else 0.0
    return BornRun(
        name=run.name, registers=run.registers, seed=run.seed, steps=record.step, seconds=seconds,
        outcome="diverged" if diverged else _outcome(peak, last, solved is not None or not has_error(run)), solved=solved,
        error=pairs[-1][1] if pairs else None, peak_ratio=peak, peak_step=at, last_ratio=last,
        onset=next((step for step, ratio in zip(course.looks, course.ratio, strict=True) if ratio > ARTIFACT), None),
        **(_at_the_end(moments[-1]) if moments else {}),
    )  # fmt: skip


def has_error(run: Run) -> bool:
    """Whether a run has the error by which the lab's own preset is judged."""
    return run.config.recipe.kind == "regression"


def _at_the_end(moment: NormsMoment) -> dict[str, Any]:
    return {
        "background": sink(moment, "background"), "registers_hold": sink(moment, "registers"), "registers_share": shared(moment),
        "most": looked(moment, "most"), "foreground": looked(moment, "foreground"), "sinks": sinks(moment),
    }  # fmt: skip


def _outcome(peak: float, last: float, solved: bool) -> Outcome:
    if peak <= ARTIFACT:
        return "none" if solved else "not solved"
    return "artifacts" if last > ARTIFACT else "dissolved"


def sentence(run: BornRun) -> str:
    """Say what became of a run."""
    if run.failed:
        return f"{run.name}: {run.failed}"
    solved = f"solved at step {run.solved:,}" if run.solved is not None else f"not solved by step {run.steps:,}"
    words = {
        "none": f"no artifacts (largest norm / median {number(run.peak_ratio)})",
        "not solved": f"no artifacts so far (largest norm / median {number(run.peak_ratio)})",
        "diverged": "diverged",
        "artifacts": f"artifacts from step {run.onset:,}, up to {number(run.peak_ratio)} times the median"
        if run.onset is not None
        else "",
        "dissolved": f"artifacts of {number(run.peak_ratio)} times the median at step {run.peak_step:,}, gone at the end",
    }[run.outcome]
    parts = [f"{run.name}: {words}; {solved}"]
    for name, taken in (("background", run.background), ("registers", run.registers_hold)):
        if taken is not None:
            value = "" if taken.values is None else f" with values of {number(taken.values)} of the mean"
            parts.append(f"{name} take{'s' * (name == 'background')} {number(taken.attention)} of the attention{value}")
    return "; ".join(parts) + "."


def line(places: Mapping[str, Path]) -> str:
    """Return how the runs stand, from their records so far; runs that have not begun are left out."""
    return " | ".join(words for name, place in places.items() if (words := _stands(name, place)))


def _stands(name: str, place: Path) -> str:
    records = read_records(place) if (place / "metrics.jsonl").exists() else []
    if not records:
        return ""
    words = [f"{name}: step {records[-1]['step']:,}"]
    errors = [each[METRIC] for each in records if each["kind"] == "evaluation" and each.get(METRIC) is not None]
    words += [f"error {number(errors[-1])}"] if errors else []
    looks = [each for each in records if each["kind"] == "norms"]
    if looks:
        moment = NormsMoment.model_validate({key: value for key, value in looks[-1].items() if key != "kind"})
        words.append(f"max/median {number(largest(moment))}")
        taken = sink(moment, "registers") or sink(moment, "background")
        words += [f"attention {number(taken.attention)}"] if taken else []
    return ", ".join(words)
