"""`vitreg lab`: born, run and report, each with flags of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import check_place, contents, manual, open_with
from vitreg.cli.parsing import parse
from vitreg.console.exits import Exit
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.experiments.lab.options import LabOptions, RunOptions, refuse_unknown

if TYPE_CHECKING:
    from vitreg.records.lab import LabReport


@dataclass(frozen=True, kw_only=True)
class Born:
    """Grow artifacts on this computer: small ViTs trained without and with registers, beside each other.

    Each run learns to look things up among drawn tiles, until its error is small. Writes result.json, report.html and
    tables, and the curves of the first runs into births/; an interrupted experiment goes on from its checkpoints. A pair
    takes about three minutes on two idle cores.

    Example: vitreg lab born --registers 0 4 --out born
    """

    out: Path = Path("vitreg-lab")
    """Folder for the results."""
    which: OmitArgPrefixes[LabOptions] = field(default_factory=LabOptions)
    """Which runs."""

    def check(self) -> None:
        """Refuse mistakes that show before torch is loaded."""
        from vitreg.passes import ahead

        for each in (ahead.design_outputs(self.out), ahead.births_outputs(self.out)):
            check_place(each)
        ahead.refuse_other_lab(self.out)

    def __call__(self) -> int:
        """Run the experiment. Returns the exit code."""
        from vitreg.experiments.lab.born import born
        from vitreg.experiments.lab.said import sentence

        result = born(self.which, self.out, _Told())
        for run in result.runs:
            say(sentence(run))
        return _said(result, self.out)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Train the runs of a design: factors that are crossed, each run from several seeds until its task is solved.

    A design is a TOML file (docs/lab.md says how it is written), or one that vitreg ships: first asks what grows
    artifacts, later what registers do that are added to them, dissolve why they go again, bridge at which step from
    drawn tiles to photographs they stop, natural searches for them on pictures, toys grows sinks of a known kind, and
    tiny takes a minute. How many hours it takes is said beforehand; --dry-run says only that. Finished runs are kept:
    after Ctrl-C the same command goes on, and several processes on one folder share the runs. Writes result.json,
    report.html, effects.csv and runs.csv; vitreg lab report DIR writes them again from the runs so far.

    Example: vitreg lab run first --out first
    """

    design: Annotated[
        Positional[str],
        arg(metavar="DESIGN", help="a TOML file, or first, later, dissolve, bridge, natural, toys or tiny"),
    ] = ""
    out: Path = Path("vitreg-lab-run")
    """Folder for the results."""
    dry_run: bool = False
    """List the runs and say how many hours they take, from the runs that ended or a short training, and stop."""
    how: OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)
    """How the runs are trained."""

    def check(self) -> None:
        """Refuse mistakes that show before torch is loaded."""
        from vitreg.experiments.lab.reading import design_named
        from vitreg.passes import ahead

        design_named(self.design, self.how.photos)
        if not self.dry_run:
            check_place(ahead.design_outputs(self.out))
            ahead.refuse_other_lab(self.out)

    def __call__(self) -> int:
        """Run the design. Returns the exit code."""
        from vitreg.experiments.lab.running import lines, planned, run

        if self.dry_run:
            from vitreg.experiments.lab.reading import data_named

            left_out = data_named(self.design, self.how.photos)[1]
            for line in (*left_out, *lines(*planned(self.design, self.out, self.how.photos), self.how.processes)):
                say(line)
            return Exit.DONE
        return _said(run(self.design, self.how, self.out, _Told()), self.out)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Say what the runs of a design show so far: effects with intervals over seeds, outcomes, courses. Nothing is trained.

    Also while vitreg lab run goes on in the same folder. Writes result.json, report.html, effects.csv and runs.csv into it.

    Example: vitreg lab report first
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR", help="the --out of a vitreg lab run")]

    def check(self) -> None:
        """Refuse a folder that is none."""
        from vitreg.experiments.lab.reading import design_in

        if not self.folder.is_dir():
            raise UserError(f"no folder '{self.folder}'; name the --out of a vitreg lab run.")
        design_in(self.folder)

    def __call__(self) -> int:
        """Write the report. Returns the exit code."""
        from vitreg.experiments.lab.report import report

        return _said(report(self.folder), self.folder)


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Grow artifacts on this computer: a pair of small ViTs (born), or a design of many factors (run, report).

    Example: vitreg lab born --registers 0 4 --out born

    Every setting of an experiment: vitreg lab born --help
    """


KINDS: dict[str, type[Born] | type[Run] | type[Report]] = {"born": Born, "run": Run, "report": Report}


def run_lab(argv: list[str]) -> int:
    """Read the words after `vitreg lab`, and do the experiment. Returns the exit code.

    Raises:
        UserError: for a mistake in names, settings or the design.
    """
    if not argv or argv[0] in ("--help", "-h"):
        say(overview())
        return Exit.DONE
    name, *words = argv
    refuse_unknown(name)
    kind = KINDS[name]
    command = parse(kind, words, prog=f"vitreg lab {name}", description=manual(kind))
    command.check()
    import_torch()
    return command()


def overview() -> str:
    """Return the usage, and the list of experiments with the first sentence of each manual."""
    lines = [
        "usage: vitreg lab EXPERIMENT ... [--out DIR]",
        "       vitreg lab EXPERIMENT --help    every setting of an experiment, with its value and meaning",
        "",
        "Experiments:",
    ]
    return "\n".join([*lines, *contents(KINDS)])


def _said(result: LabReport, folder: Path) -> int:
    """Print what a design shows, and what to open."""
    say(result.sentence)
    for answer in result.answers:
        say(f"{answer.question} {answer.sentence}")
    failed = [run for run in result.runs if run.failed or run.diverged]
    if failed:
        say(f"{len(failed)} of {result.asked} runs failed or diverged; the page names each with its reason.")
    for each in result.undrawn:
        say(each.sentence)
    if failed and all(run.failed for run in result.runs):
        raise UserError(f"no run has ended; the first, {failed[0].name}: {failed[0].failed}")
    open_with(folder / "report.html")
    return Exit.DONE


class _Told:
    """Prints a line when it has changed."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, line: str) -> None:
        if line and line != self.last:
            say(line, error=True)
            self.last = line
