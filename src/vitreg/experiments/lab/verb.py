"""`lab`: trains small ViTs in which artifacts are born, alone or as a design of many, and says what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from vitreg.errors import UserError
from vitreg.experiments.lab.born import born
from vitreg.experiments.lab.options import LabOptions, RunOptions, refuse_unknown
from vitreg.experiments.lab.report import report
from vitreg.experiments.lab.running import run
from vitreg.passes.options import split, takes
from vitreg.records.lab import LabReport


@takes(LabOptions, RunOptions)
def lab(
    experiment: str = "born",
    what: str | Path = "",
    *,
    out: str | Path | None = None,
    options: LabOptions | RunOptions | None = None,
    told: Callable[[str], object] = lambda line: None,
    **keywords: Any,
) -> LabReport:
    """Train small ViTs until their task is solved, without and with registers or as a design of many factors, and draw it.

    Args:
        experiment: "born", "run" (a design) or "report" (what the runs of a design say so far; nothing is trained).
        what: of "run" the design, a TOML file or the name of one that vitreg ships; of "report" the folder of such a run.
        out: of "born" and "run" the folder for result.json, report.html, tables and pictures, and jobs/ and runs/, from which an
            interrupted experiment goes on.
        told: called every few seconds with a line on the runs.
        options: `LabOptions` of "born", `RunOptions` of "run"; keywords override them.
    Returns:
        the record; a run that fails or diverges is a row with the reason.
    Raises:
        UserError: for an unknown experiment, a design that cannot be run, settings out of range, or a folder that cannot be
            written.
    """
    refuse_unknown(experiment)
    if experiment == "report":
        split(RunOptions, None, keywords, "lab", loads=False)
        return report(_named(what, "report", "what"))
    folder = _named(out, experiment, "out")
    if experiment == "born":
        own, _ = split(LabOptions, cast(LabOptions | None, options), keywords, "lab", loads=False)
        return born(own, folder, told)
    how, _ = split(RunOptions, cast(RunOptions | None, options), keywords, "lab", loads=False)
    return run(str(what), how, folder, told)


def _named(folder: str | Path | None, experiment: str, keyword: str) -> Path:
    if not folder:
        raise UserError(f"vitreg.lab('{experiment}') needs a folder; name it by {keyword}.")
    return Path(folder)
