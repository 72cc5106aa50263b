"""`curves`: the training histories of runs as a record, a page and a picture. No torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vitreg.errors import UserError
from vitreg.passes.drawing import as_written, noted
from vitreg.passes.options import takes
from vitreg.records import Curves, RunRecord
from vitreg.training.history import read_run
from vitreg.writing.files import output_folder, run_folder, texts
from vitreg.writing.outputs import Outputs

FILES = ("report.html", "curves.png", "curves.json")
MOST_RUNS = 8  # lines a chart can show distinguishably


@takes()
def curves(
    runs: str | Path | Sequence[str | Path] | Mapping[str, str | Path], *, out: str | Path | None = None
) -> Curves:
    """Draw the curves of one or several runs: loss, evaluations, and the norms over training (the paper's Fig. 4b).

    Args:
        runs: folders of runs, with or without "run:" before them; of a mapping, the keys are the names that are shown.
        out: folder for report.html, curves.png and curves.json; nothing is written without it.
    Raises:
        UserError: for a folder that holds no run or nothing yet, more than 8 runs, or an unwritable folder.
    """
    runs = [runs] if isinstance(runs, str | Path) else runs
    if not 1 <= len(runs) <= MOST_RUNS:
        raise UserError(f"curves are drawn of 1 to {MOST_RUNS} runs, not {len(runs)}.")
    record = Curves(schema="vitreg.curves/1", runs=_named(runs))
    outputs = None if out is None else Outputs(output_folder(Path(out)), "curves", FILES)
    if outputs is None:
        return record
    outputs.check()
    outputs.publish(texts({"curves.json": record.model_dump_json(indent=1)}), more=True)
    from vitreg.report import Attempts, draw_curves

    attempts = Attempts()
    with outputs.adding() as place:
        draw_curves(as_written(record).runs, place, attempts)
        return noted(record, place / "curves.json", attempts)


def write_run_report(folder: str | Path) -> Path:
    """Write the page of a run into its folder, and return its path, RUN/report.html.

    Raises:
        UserError: for a folder that holds no run or nothing yet, or cannot be written.
    """
    from vitreg.report import write_curves

    record = read_run(Path(folder))
    with Outputs(Path(folder), "curves", ["report.html"]).adding() as place:
        write_curves([record], place)
    return Path(folder) / "report.html"


def _named(runs: Sequence[str | Path] | Mapping[str, str | Path]) -> list[RunRecord]:
    if isinstance(runs, Mapping):
        return [read_run(run_folder(run)).model_copy(update={"name": name}) for name, run in runs.items()]
    return _told_apart([read_run(run_folder(run)) for run in runs])


def _told_apart(runs: list[RunRecord]) -> list[RunRecord]:
    """Name runs by their folder, or by its full path where two names are equal."""
    names = [run.name for run in runs]
    return [run.model_copy(update={"name": run.folder}) if names.count(run.name) > 1 else run for run in runs]
