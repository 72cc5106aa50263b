"""The tasks of `eval` by name: their settings, which need no torch, and the task itself when it runs.

A plug-in task is its own settings: a dataclass like those here, with `run(bench) → Outcome`. Its name is its class in
lower case.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from vitreg import plugins
from vitreg.errors import UserError
from vitreg.verbs.eval import settings as rooms
from vitreg.verbs.eval.settings.task import TaskSettings

if TYPE_CHECKING:
    from vitreg.passes.bench import Bench
    from vitreg.verbs.eval.task import Outcome, Task


def _ours() -> dict[str, type[TaskSettings]]:
    """Find the tasks of vitreg: the dataclass NAMESettings of any module of `settings` is that of `tasks/name.py`."""
    found: dict[str, type[TaskSettings]] = {}
    for module in pkgutil.iter_modules(rooms.__path__):
        held = vars(importlib.import_module(f"{rooms.__name__}.{module.name}")).items()
        found |= {
            name.removesuffix("Settings").lower(): kind
            for name, kind in held
            if name.endswith("Settings") and issubclass(kind, TaskSettings) and kind is not TaskSettings
        }
    return dict(sorted(found.items()))


TASKS = _ours()


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
    check(name, settings)
    return task_of(name, settings), {key: value for key, value in keywords.items() if key not in own}


def check(name: str, settings: TaskSettings) -> None:
    """Raise UserError for settings out of range."""
    with nullcontext() if name in TASKS else plugins.blamed("task", name):
        settings.check()


def run(name: str, task: Task, bench: Bench) -> Outcome:
    """Measure. Raises UserError for a task that cannot measure here, or a plug-in that fails."""
    if name in TASKS or name not in plugins.names("task"):
        return task.run(bench)
    with plugins.blamed("task", name):
        found = task.run(bench)
    from vitreg.verbs.eval.task import Outcome

    if not isinstance(found, Outcome):
        raise UserError(f"the task '{name}' gives {type(found).__name__}, not an Outcome.")
    return found
