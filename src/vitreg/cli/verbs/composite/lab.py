"""`vitreg lab`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.experiments.born.options import LabOptions, refuse_unknown


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Grow artifacts on this computer: small ViTs trained without and with registers, beside each other.

    Each run learns to look things up among drawn tiles, until its error is small. Writes result.json, report.html and
    curves.png; an interrupted experiment goes on from its checkpoints. Hours on a busy machine, less on an idle one.

    Example: vitreg lab born --registers 0 4 --out born
    """

    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT", help="born")] = "born"
    out: Path = Path("vitreg-lab")
    """Folder for the results."""
    lab: OmitArgPrefixes[LabOptions] = field(default_factory=LabOptions)
    """Which runs."""

    def check(self) -> None:
        """Refuse mistakes that show before torch is loaded."""
        refuse_unknown(self.experiment)

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.experiments.born.said import sentence
        from vitreg.experiments.born.verb import lab

        result = lab(self.experiment, out=self.out, options=self.lab, told=_Told())
        for run in result.runs:
            say(sentence(run))
        for each in result.undrawn:
            say(each.sentence)
        if all(run.failed for run in result.runs):
            raise UserError(f"no run has ended; the first, {result.runs[0].name}: {result.runs[0].failed}")
        open_with(self.out / "report.html")
        return Exit.DONE


class _Told:
    """Prints a line when it has changed."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, line: str) -> None:
        if line and line != self.last:
            say(line, error=True)
            self.last = line
