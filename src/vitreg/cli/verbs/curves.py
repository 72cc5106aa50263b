"""`vitreg curves`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vitreg.cli.command import open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.writing.files import run_folder


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Draw the logs of training runs side by side: loss, evaluations, and when artifacts appeared (Fig. 4b).

    Writes report.html, curves.png and curves.json. Works while a run trains, too.

    Example: vitreg curves runs/deit3-reg0 runs/deit3-reg4 --out curves
    """

    runs: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="RUN...",
            help="folders of training runs, with or without run: before them",
            help_behavior_hint="(at least one)",
        ),
    ]
    out: Path | None = None
    """Folder for the results; if unset, the folder of a single run, or vitreg-curves for several."""

    def check(self) -> None:
        """Nothing to refuse: the verb loads no model."""

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.training.journal import unreadable_lines
        from vitreg.verbs.curves import curves

        if not self.runs:
            raise UserError("no runs named; give their folders, for example: vitreg curves runs/reg0 runs/reg4")
        out = self.out or (run_folder(self.runs[0]) if len(self.runs) == 1 else Path("vitreg-curves"))
        record = curves(self.runs, out=out)
        for run in record.runs:
            say(f"{run.name}: {run.watched.sentence if run.watched else 'The norms were not watched.'}")
            if run.unreadable:
                say(f"{run.name}: {unreadable_lines(run.unreadable)}")
        for each in record.undrawn:
            say(each.sentence)
        open_with(out / "report.html")
        return Exit.DONE
