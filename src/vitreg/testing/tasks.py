"""The conformance suite of tasks: promises to the records of `vitreg eval`."""

from __future__ import annotations

import json
import math
from string import Formatter
from typing import cast

from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.passes.bench import Bench
from vitreg.report.evaluation.words import FILLED
from vitreg.verbs.eval.settings.task import TaskSettings
from vitreg.verbs.eval.task import Outcome, Task


def check_task(task: Task, bench: Bench) -> Outcome:
    """Check that a task keeps every promise that records rely on.

    The same task on the same bench gives the same numbers; the headline is one of its metrics; every number is finite or
    NaN; a control stands beside it, or a note says why there is none; the protocol can be written as JSON;
    `measured` can be filled in; the model keeps its weights.

    Args:
        task: with its settings.
        bench: a model and data that the task takes, small enough to run twice.
    Returns:
        the task's result.
    Raises:
        AssertionError: naming the promise and how it was broken.
    """
    assert isinstance(task, TaskSettings), f"{type(task).__name__} does not inherit TaskSettings, so it has no flags"
    cast(TaskSettings, task).check()
    named = {field for _, field, *_ in Formatter().parse(task.measured) if field is not None}
    assert named <= FILLED, f"`measured` names {', '.join(sorted(named - FILLED))}; only {', '.join(FILLED)} are known"
    before = sha256_of_weights(bench.backbone.module)
    first, again = task.run(bench), task.run(bench)
    assert isinstance(first, Outcome), f"run gives {type(first).__name__} instead of an Outcome"
    assert first.headline in first.metrics, f"the headline '{first.headline}' is none of {', '.join(first.metrics)}"
    for name, value in {**first.metrics, **first.controls}.items():
        assert isinstance(value, float | int), f"{name} is {type(value).__name__}, not a number"
        assert not math.isinf(value), f"{name} is infinite"
    assert first.controls or first.notes, (
        "a number without a control says nothing; add one, or a note that says why not"
    )
    for side, count in first.counts.items():
        assert count > 0, f"{count} images of the {side} side were measured on"
    json.dumps(dict(first.protocol))
    for name, value in first.metrics.items():
        other = again.metrics[name]
        assert value == other or (math.isnan(value) and math.isnan(other)), (
            f"{name} is {value}, and {other} the second time"
        )
    assert sha256_of_weights(bench.backbone.module) == before, "the task changed the weights of the model"
    return first
