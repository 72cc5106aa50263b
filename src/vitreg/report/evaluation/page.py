"""One self-contained HTML page from the record of an evaluation: the sentence, the number beside its controls, tables,
pictures, the protocol, and how to repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.evaluation import words
from vitreg.report.evaluation.charts import beside_controls
from vitreg.report.scan import payload
from vitreg.report.sheets.kept import Named
from vitreg.report.sheets.sheet import save_all
from vitreg.results import EvalResult
from vitreg.writing.files import output_folder

FILE_NAME, SHEETS = "report.html", "sheets.npz"
TONES = {"above": "clear", "level": "mild", "below": "strong", "alone": "open"}
ROWS_SHOWN = 200  # of a table; the rest is in result.json


def draw_evaluation(result: EvalResult, sheets: Sequence[Named], directory: Path, attempts: Attempts) -> None:
    """Draw the pictures of an evaluation and its page into a folder.

    Args:
        sheets: sheets read from the folder, or new ones.
        attempts: collects drawings that fail; the page lists them.
    Raises:
        UserError: if the folder cannot be written.
    """
    save_all(sheets, directory, attempts)
    names = [name for name, _ in sheets]
    if result.task == "complexity":
        from vitreg.report.sheets.cost import write_cost_figure

        names.append("complexity.png")
        attempts(names[-1], lambda: write_cost_figure(result, directory))
    pictures = [directory / name for name in names if (directory / name).is_file()]
    attempts(FILE_NAME, lambda: write_evaluation(result, pictures, directory, attempts))


def write_evaluation(
    result: EvalResult, pictures: Sequence[Path], directory: Path, attempts: Attempts | None = None
) -> Path:
    """Write ``directory/report.html`` and return its path.

    Args:
        pictures: PNG files that the page shows.
        attempts: collects charts that fail, beside earlier failures; the page lists all of them.
    Raises:
        UserError: if the folder cannot be written, with the reason of the system.
    """
    return shell.write(output_folder(Path(directory)) / FILE_NAME, render(result, pictures, attempts))


def render(result: EvalResult, pictures: Sequence[Path] = (), attempts: Attempts | None = None) -> str:
    """Return the page as text; see ``write_evaluation``."""
    attempts = Attempts() if attempts is None else attempts
    chart = attempts(
        "chart of the controls",
        lambda: shell.two_widths(beside_controls(result, shell.FULL), beside_controls(result, shell.PHONE)),
    )
    shown = [(path.name, payload.data_uri("png", path.read_bytes())) for path in pictures]
    return shell.render(
        "evaluation.html.j2",
        result=result,
        title=words.title(result),
        sentence=words.sentence(result),
        controls=words.controls(result),
        verdict=words.verdict(result),
        standing=words.standing(result),
        tone="open" if result.answers_either_way else TONES[words.standing(result)],
        metrics=[_metric(result, name) for name in result.metrics],
        tables=[(table, table.rows[:ROWS_SHOWN]) for table in result.tables],
        cell=words.cell,
        setting=words.setting,
        chart=chart,
        pictures=shown,
        undrawn=attempts.failed,
        data=payload.empty_block(),
    )


def _metric(result: EvalResult, name: str) -> dict[str, Any]:
    value = words.measure(result.metrics[name], result.units.get(name, ""))
    return {"name": name, "value": value, "interval": words.interval(result, name), "headline": name == result.headline}
