"""The command line of `fix`: METHOD, SPEC and IMAGES, then the method's settings, documented by its dataclass."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from tyro.conf import OmitArgPrefixes

from vitreg.cli.command import OverImages, check_place, contents, open_with, take_models
from vitreg.cli.parsing import parse
from vitreg.console.exits import Exit
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.errors import unknown
from vitreg.repair.settings import CHOOSES, FitOptions, MethodSettings, names, settings_of

T = TypeVar("T", bound=MethodSettings)


@dataclass(frozen=True, kw_only=True)
class Command(OverImages, Generic[T]):
    """The words of `vitreg fix METHOD`."""

    method: OmitArgPrefixes[T]
    """Settings of this method."""
    out: Path = Path("vitreg-fixed")
    """Folder for the repair; fixed:DIR is the repaired model."""
    fit: OmitArgPrefixes[FitOptions] = field(default_factory=FitOptions)
    """The images it is fitted on."""

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        self.method.check()
        super().check()
        check_place(*ahead.fix_outputs(self.out, self.images, self.model.weights, self.method.files))


def run_fix(argv: list[str]) -> int:
    """Read the words after `vitreg fix`, and repair. Returns the exit code.

    Raises:
        UserError: for a mistake in names, settings or images.
    """
    if not argv or argv[0] in ("--help", "-h"):
        say(overview())
        return Exit.DONE
    name, *words = argv
    known = [*CHOOSES, *names()]
    if name not in known:
        raise unknown("repair", name, known, "vitreg fix")
    kind, words = settings_of(name), take_models(words, "fix", several=False)
    command = parse(
        Command[kind],  # type: ignore[valid-type]
        words,
        prog=f"vitreg fix {name}",
        description=inspect.getdoc(kind) or "",
    )
    command.check()
    import_torch()
    return _run(name, command)


def overview() -> str:
    """Return the usage, and the list of methods with the first sentence of each manual."""
    lines = [
        "usage: vitreg fix METHOD SPEC IMAGES [--out DIR] ...",
        "       vitreg fix METHOD --help    every setting of a method, with its value and meaning",
        "",
        "Methods:",
    ]
    return "\n".join([*lines, *contents({name: settings_of(name) for name in (*CHOOSES, *names())})])


def _run(name: str, command: Command[MethodSettings]) -> int:
    from vitreg.repair.methods.auto import NoneKeptError
    from vitreg.repair.outliers import NothingToRepairError
    from vitreg.verbs.fix.verb import fix, summary

    try:
        repair = fix(
            name, command.spec, list(command.images), out=command.out, settings=command.method, options=command.fit,
            quiet=False, **command.loading,
        )  # fmt: skip
    except NothingToRepairError as error:
        say(f"vitreg: {error}", error=True)
        return Exit.NOTHING_TO_REPAIR
    except NoneKeptError as error:
        say(f"vitreg: {error}", error=True)
        return Exit.OVER_BUDGET
    say(summary(repair, command.out, command.model.repair))
    open_with(command.out / "norm.png")
    return Exit.DONE
