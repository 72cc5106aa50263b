"""The command line of `eval`: SPEC, TASK and DATA, then the task's settings, documented by its dataclass."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import SPEC_HELP, check_place, contents, listed, models_of, notice, open_result, speaks
from vitreg.cli.parsing import parse
from vitreg.console.exits import Exit
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.data.sets.spelling import meant
from vitreg.errors import UserError
from vitreg.passes.options import LoadOptions
from vitreg.quantities import number
from vitreg.specs import whole
from vitreg.verbs.eval.options import WITHOUT_DATA, EvalOptions
from vitreg.verbs.eval.registry import check, settings_of, task_names, task_of
from vitreg.verbs.eval.settings.task import TaskSettings

if TYPE_CHECKING:
    from vitreg.results import EvalPair

SEVERAL = """Measure models by several tasks, with one table of the results (page and CSV).

Each task keeps its own settings: vitreg eval SPEC TASK --help shows those of one, and a run of that task alone takes them.
A pair whose folder holds a complete record of the same model, task, data and settings is not measured again.

Example: vitreg eval -m timm:deit3_small_patch16_224 -m run:runs/deit3-reg4 knn,linear imagenette/
"""
T = TypeVar("T", bound=TaskSettings)


@dataclass(frozen=True, kw_only=True)
class Command(Generic[T]):
    """The words of `vitreg eval SPEC TASK`."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    data: Annotated[
        Positional[str],
        arg(metavar="DATA", help="what it is measured on; see above", help_behavior_hint="(none for complexity)"),
    ] = ""
    task: OmitArgPrefixes[T]
    """Settings of this task."""
    out: Path | None = None
    """Folder for the results; vitreg-eval/TASK if unset."""
    eval: OmitArgPrefixes[EvalOptions] = field(default_factory=EvalOptions)
    """How the model is run over the data."""
    model: OmitArgPrefixes[LoadOptions] = field(default_factory=LoadOptions)


def run_eval(argv: list[str]) -> int:
    """Read the words after `vitreg eval`, and evaluate. Returns the exit code.

    Raises:
        UserError: for a mistake in names, settings or data.
    """
    if not argv or argv in (["--help"], ["-h"]):
        say(overview())
        return 0
    if argv[0] in task_names() and {"--help", "-h"} & set(argv):
        argv = ["SPEC", *argv]
    if len(argv) == 2 and argv[1] in ("--help", "-h"):  # models, and no task yet
        say(overview())
        return 0
    if len(argv) < 2 or argv[0].startswith("-") or argv[1].startswith("-"):
        raise UserError("name the model, then the task, then flags: vitreg eval SPEC TASK DATA [--flag value ...].")
    word, *words = argv[1:]
    models, names = models_of(argv[0], commas=False), list(dict.fromkeys(listed(word)))
    kinds = [settings_of(name) for name in names]
    kind = kinds[0] if len(kinds) == 1 else TaskSettings  # several tasks keep their own settings
    command = parse(
        Command[kind],  # type: ignore[valid-type]
        [models[0], *words],
        prog=f"vitreg eval SPEC {word}",
        description=SEVERAL if len(kinds) > 1 else inspect.getdoc(kind) or "",
    )
    if not command.data and set(names) - set(WITHOUT_DATA):
        raise UserError(f"no data named: vitreg eval {quote(models[0])} {word} DATA.")
    if len(models) > 1 or len(names) > 1:
        return _run_several(command, models, names)
    out = Path("vitreg-eval") / names[0] if command.out is None else command.out
    _check(command, names[0], out)
    import_torch()
    return _run(command, names[0], out)


def overview() -> str:
    """Return the usage, and the list of tasks with the first sentence of each manual."""
    lines = [
        "usage: vitreg eval SPEC TASK DATA [--out DIR] ...",
        "       vitreg eval -m SPEC -m SPEC TASK,TASK DATA    several models and tasks in one table",
        "       vitreg eval SPEC TASK --help         every setting of a task, with its value and meaning",
        "",
        "Tasks:",
    ]
    return "\n".join([*lines, *contents({name: settings_of(name) for name in task_names()})])


def _check(command: Command[TaskSettings], name: str, out: Path) -> None:
    """Refuse mistakes that show before a model is loaded."""
    from vitreg.passes import ahead

    check(name, command.task)
    command.model.check(command.spec, command.model.weights)
    ahead.refuse_absent_data(command.data)
    notice(command.data, meant(name, command.data))
    check_place(ahead.eval_outputs(out, command.data, command.model.weights))
    ahead.refuse_other_eval(out, name, whole(command.spec), command.data)


def _run(command: Command[TaskSettings], name: str, out: Path) -> int:
    from vitreg.verbs.eval.verb import evaluate, summary

    result = evaluate(
        command.spec,
        task_of(name, command.task),
        command.data,
        out=out,
        options=command.eval,
        weights=command.model.weights,
        quiet=False,
        **command.model.given(),
    )
    if speaks():
        say(summary(result))
        open_result(out)
    return 0


def _run_several(command: Command[TaskSettings], models: list[str], names: list[str]) -> int:
    """Evaluate several models or tasks: a folder for each pair, and a table. Returns the exit code."""
    from vitreg.passes import ahead

    out = Path("vitreg-eval") if command.out is None else command.out
    if command.model.weights is not None and len(models) > 1:
        raise UserError(f"--weights belong to one model, not to {len(models)}; evaluate the models one by one.")
    settings = {name: command.task if len(names) == 1 else settings_of(name)() for name in names}
    for name, each in settings.items():
        check(name, each)
    for spec in models:
        command.model.check(spec, command.model.weights)
    ahead.refuse_absent_data(command.data)
    for written in dict.fromkeys(meant(name, command.data) for name in names):
        notice(command.data, written)
    check_place(ahead.evaluations_outputs(out, command.data, command.model.weights))
    ahead.refuse_other_evaluations(out, command.data)
    import_torch()
    from vitreg.verbs.eval.several import evaluate_all

    try:
        result = evaluate_all(
            models, [task_of(name, each) for name, each in settings.items()], command.data, out=out,
            options=command.eval, weights=command.model.weights, quiet=False,
            ended=lambda pair: say(in_a_line(pair)) if speaks() else None, **command.model.given(),
        )  # fmt: skip
    except KeyboardInterrupt as stop:
        kept = "finished pairs are kept, and the same command goes on from them"
        raise KeyboardInterrupt(*(stop.args or [kept])) from None
    failed = [pair for pair in result.pairs if pair.failed]
    if speaks():
        if failed:
            say(
                f"vitreg: {len(failed)} of {len(result.pairs)} evaluations failed; the others are in the table.",
                error=True,
            )
        open_result(out)
    return Exit.MISTAKE if failed else Exit.DONE


def in_a_line(pair: EvalPair) -> str:
    """Return the result of one pair as a line."""
    if pair.failed:
        return f"{pair.model}  {pair.task}: {pair.failed}"
    words = [f"{number(pair.value)} {pair.unit}".rstrip()]
    words += [f"({number(pair.interval[0])} to {number(pair.interval[1])})"] if pair.interval else []
    words += [f"control: {pair.control[0]} {number(pair.control[1])} {pair.unit}".rstrip()] if pair.control else []
    return f"{pair.model}  {pair.task}: {'  '.join(words)}" + ("  kept" if pair.kept else "")
