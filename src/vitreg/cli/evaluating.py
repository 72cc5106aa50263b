"""The command line of `eval`: SPEC, TASK and DATA, then the settings of the task, whose dataclass is their manual."""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.options import (
    AS_IT_IS,
    SPEC_HELP,
    ModelOptions,
    at_least,
    check_model,
    check_place,
    contents,
    open_with,
    parse_size,
)
from vitreg.cli.parsing import parse
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.errors import UserError, unknown
from vitreg.passes import ahead
from vitreg.specs import whole
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

T = TypeVar("T", bound=TaskSettings)

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
WITHOUT_DATA = {"complexity"}


@dataclass(frozen=True, kw_only=True)
class Command(Generic[T]):
    """Measure what a model's features are good for."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    data: Annotated[
        Positional[str],
        arg(metavar="DATA", help="what it is measured on; see above", help_behavior_hint="(none for complexity)"),
    ] = ""
    task: OmitArgPrefixes[T]
    """Settings of this task."""
    out: Path | None = None
    """Folder for result.json; vitreg-eval/TASK if unset."""
    features: Path | None = None
    """Folder where extracted features are kept and found again; the user's cache if unset."""
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = AS_IT_IS
    size: str | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Literal["pad", "crop", "resize"] = "resize"
    """What to do where a side is no multiple of the patch; the model's own size is left as it is."""
    limit: int | None = None
    """Use at most this many images of each side."""
    batch_size: int | None = None
    """Images at once; chosen by token count and device if unset."""
    workers: int | None = None
    """Processes that decode."""
    download: bool = False
    """Let sets known by name fetch what is missing."""
    seed: int = 0
    """Of everything drawn at random."""


def run_eval(argv: list[str]) -> int:
    """Read the words after `vitreg eval`, and evaluate. Returns the exit code.

    Raises:
        UserError: for a mistake in names, settings or data.
    """
    if not argv or argv in (["--help"], ["-h"]):
        say(overview())
        return 0
    if argv[0] in TASKS and {"--help", "-h"} & set(argv):
        argv = ["SPEC", *argv]
    if len(argv) < 2 or argv[0].startswith("-") or argv[1].startswith("-"):
        raise UserError("name the model, then the task, then flags: vitreg eval SPEC TASK DATA [--flag value ...].")
    spec, name, *words = argv
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    kind = TASKS[name]
    command = parse(
        Command[kind],  # type: ignore[valid-type]
        [spec, *words],
        prog=f"vitreg eval SPEC {name}",
        description=inspect.getdoc(kind) or "",
    )
    if not command.data and name not in WITHOUT_DATA:
        raise UserError(f"no data named: vitreg eval {spec} {name} DATA.")
    out = Path("vitreg-eval") / name if command.out is None else command.out
    _check(command, name, out)
    import_torch()
    return _run(command, name, out)


def overview() -> str:
    """Say how to call the verb, and list the tasks with the first sentence of each."""
    lines = [
        "usage: vitreg eval SPEC TASK DATA [--out DIR] ...",
        "       vitreg eval SPEC TASK --help         every setting of a task, with its value and meaning",
        "",
        "Tasks:",
    ]
    return "\n".join([*lines, *contents(TASKS)])


def _check(command: Command[TaskSettings], name: str, out: Path) -> None:
    """Refuse what no model is needed for."""
    parse_size(command.size)
    for flag, value in (("limit", command.limit), ("batch-size", command.batch_size), ("workers", command.workers)):
        at_least(1, flag, value)
    at_least(0, "seed", command.seed)
    command.task.check()
    check_model(command.spec, command.weights, command.model)
    ahead.refuse_absent_data(command.data)
    check_place(ahead.eval_outputs(out, command.data, command.weights))
    ahead.refuse_other_eval(out, name, whole(command.spec), command.data)


def _run(command: Command[TaskSettings], name: str, out: Path) -> int:
    from vitreg.verbs.eval.verb import describe, evaluate

    settings = {field.name: getattr(command.task, field.name) for field in fields(command.task)}
    measured = getattr(
        importlib.import_module(f"vitreg.verbs.eval.tasks.{name}"), TASKS[name].__name__.removesuffix("Settings")
    )

    result = evaluate(
        command.spec,
        measured(**settings),
        command.data,
        out=out,
        features=command.features,
        weights=command.weights,
        size=parse_size(command.size),
        fit=command.fit,
        limit=command.limit,
        batch_size=command.batch_size,
        workers=command.workers,
        seed=command.seed,
        download=command.download,
        quiet=False,
        **vars(command.model),
    )
    if os.environ.get("RANK", "0") == "0":
        say(describe(result))
        open_with(out / "result.json")
    return 0
