"""The tasks of `eval` by name: their settings, without torch, and the task itself when it is to run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from vitreg.errors import unknown
from vitreg.verbs.eval.settings.dense import ComplexitySettings, DepthSettings, SegmentationSettings
from vitreg.verbs.eval.settings.task import TaskSettings
from vitreg.verbs.eval.settings.tokens import ControlsSettings, PixelsSettings, PositionSettings, TokensSettings
from vitreg.verbs.eval.settings.whole_image import (
    KnnSettings,
    LinearSettings,
    LogisticSettings,
    RetrievalSettings,
    ZeroShotSettings,
)

if TYPE_CHECKING:
    from vitreg.verbs.eval.task import Task

TASKS: dict[str, type[TaskSettings]] = {
    "knn": KnnSettings,
    "linear": LinearSettings,
    "logistic": LogisticSettings,
    "segmentation": SegmentationSettings,
    "depth": DepthSettings,
    "zeroshot": ZeroShotSettings,
    "retrieval": RetrievalSettings,
    "tokens": TokensSettings,
    "position": PositionSettings,
    "pixels": PixelsSettings,
    "controls": ControlsSettings,
    "complexity": ComplexitySettings,
}


def task_of(name: str, settings: TaskSettings) -> Task:
    """Return the task that measures with these settings."""
    module = importlib.import_module(f"vitreg.verbs.eval.tasks.{name}")
    measured = getattr(module, TASKS[name].__name__.removesuffix("Settings"))
    return measured(**{each.name: getattr(settings, each.name) for each in fields(settings)})


def task_named(name: str, keywords: Mapping[str, Any]) -> tuple[Task, dict[str, Any]]:
    """Return a task by its name, with those of the keywords that are settings of it, and the other keywords.

    Raises:
        UserError: for a task that does not exist, or settings out of range.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    own = {each.name for each in fields(TASKS[name])}
    settings = TASKS[name](**{key: value for key, value in keywords.items() if key in own})
    settings.check()
    return task_of(name, settings), {key: value for key, value in keywords.items() if key not in own}
