"""The tasks of `eval` by name: their settings, which need no torch, and the task itself when it runs.

A plug-in task is its own settings: a dataclass like those here, with `run(bench) → Outcome`. Its name is its class in
lower case.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from vitreg import plugins
from vitreg.errors import UserError
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


def task_names() -> list[str]:
    """Return the names of all tasks, ours first."""
    return plugins.names("task", TASKS)


def settings_of(name: str) -> type[TaskSettings]:
    """Return the settings of a task.

    Raises:
        UserError: for a task that does not exist, or a plug-in that is not a task.
    """
    plugins.refuse_taken("task", TASKS)
    if name in TASKS:
        return TASKS[name]
    kind = plugins.find("task", name, TASKS)
    if not (isinstance(kind, type) and issubclass(kind, TaskSettings) and is_dataclass(kind) and hasattr(kind, "run")):
        raise UserError(
            f"the task '{name}' is {kind!r}, not a dataclass that inherits TaskSettings and has run(bench)."
        )
    if kind.__name__.lower() != name:
        raise UserError(f"the task '{name}' is the class {kind.__name__}; its name must be '{kind.__name__.lower()}'.")
    return kind


def task_of(name: str, settings: TaskSettings) -> Task:
    """Return the task that measures with these settings."""
    if name not in TASKS:
        return cast("Task", settings)
    module = importlib.import_module(f"vitreg.verbs.eval.tasks.{name}")
    measured = getattr(module, TASKS[name].__name__.removesuffix("Settings"))
    return measured(**{each.name: getattr(settings, each.name) for each in fields(settings)})


def task_named(name: str, keywords: Mapping[str, Any]) -> tuple[Task, dict[str, Any]]:
    """Return a task by name, built from the keywords that are its settings, and the other keywords.

    Raises:
        UserError: for a task that does not exist, or settings out of range.
    """
    if not isinstance(name, str):
        raise UserError(f"a task is a name such as 'knn', or a task with settings, not {name!r}.")
    kind = settings_of(name)
    own = {each.name for each in fields(kind)}
    settings = kind(**{key: value for key, value in keywords.items() if key in own})
    settings.check()
    return task_of(name, settings), {key: value for key, value in keywords.items() if key not in own}
