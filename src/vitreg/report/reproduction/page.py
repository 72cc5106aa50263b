"""The page of a reproduction: every claim with its outcome, the paper's number beside ours, the figure, and the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.records.reproduction import PAPER, Claim, ExperimentRecord, Reproduction
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.paper import NotMeasuredError, save_figure
from vitreg.report.reproduction.tables import CITATION, as_csv, as_latex, published
from vitreg.report.scan import payload
from vitreg.report.words import count
from vitreg.writing.files import output_folder, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, FIGURES, TABLES = "report.html", "figures", "tables"
FORMATS = ("png", "svg", "pdf")
OUTCOMES = ("held", "not held", "not testable here")
Drawings = Mapping[str, Mapping[str, tuple[str, Callable[[], "Figure"]]]]
"""By id of the experiment: names of figures, their captions, and what draws them."""


def draw_reproduction(result: Reproduction, drawings: Drawings, directory: Path, attempts: Attempts) -> None:
    """Draw all figures (PNG, SVG, PDF), tables (CSV, LaTeX) and the page into a folder.

    Args:
        attempts: collects drawings that fail; the page lists them.
    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(directory / FIGURES)
    drawn: dict[str, list[tuple[str, Path]]] = {}
    for name, figures in drawings.items():
        drawn[name] = []
        for each, (caption, draw) in figures.items():
            path = folder / f"{each}.png"
            attempts(f"{FIGURES}/{path.name}", lambda draw=draw, path=path: _save(draw, path))
            drawn[name] += [(caption, path)] if path.is_file() else []
    output_folder(directory / TABLES)
    for each in result.experiments:
        write_text(directory / TABLES / f"{each.id}.csv", as_csv(each))
        write_text(directory / TABLES / f"{each.id}.tex", as_latex(each))
    attempts(PAGE, lambda: shell.write(directory / PAGE, render(result, drawn, attempts)))


def _save(draw: Callable[[], Figure], path: Path) -> None:
    try:
        figure = draw()
    except NotMeasuredError:  # the record lacks the data of this figure, which the page shows as absent
        return
    for kind in FORMATS:
        save_figure(figure, path.with_suffix(f".{kind}"))


def render(result: Reproduction, figures: Mapping[str, list[tuple[str, Path]]], attempts: Attempts) -> str:
    """Return the page as text.

    Args:
        figures: captions and PNG files by id of the experiment.
    """
    return shell.render(
        "reproduction.html.j2",
        result=result,
        sentence=sentence(result),
        outcomes=OUTCOMES,
        several=count(len(result.experiments), "experiment"),
        experiments=[_section(each, figures.get(each.id, [])) for each in result.experiments],
        citation=CITATION,
        paper=PAPER,
        undrawn=attempts.failed,
        data=payload.empty_block(),
    )


def sentence(result: Reproduction) -> str:
    """Say how many claims hold."""
    claims = [claim for each in result.experiments for claim in each.claims]
    found = Counter(claim.outcome for claim in claims)
    said = [f"{found[name]} {'is' if found[name] == 1 else 'are'} {name}" for name in OUTCOMES if found[name]]
    return (
        f"Of {count(len(claims), 'claim')}, each asked of one subject, {', '.join(said)}."
        if said
        else "No claim was asked."
    )


def _section(each: ExperimentRecord, figures: list[tuple[str, Path]]) -> dict[str, object]:
    by_claim: dict[str, list[Claim]] = {}
    for claim in each.claims:
        by_claim.setdefault(claim.id, []).append(claim)
    notes: dict[str, list[str]] = {}
    for found in each.measured:
        if found.note:
            notes.setdefault(found.note, []).append(found.subject)
    return {
        "record": each,
        "claims": list(by_claim.values()),
        "counts": Counter(claim.outcome for claim in each.claims),
        "notes": notes,
        "published": "; ".join(
            f"{name.replace('_', ' ')}: {published(value)}" for name, value in each.published.items()
        ),
        "ours": each.ours.split("`"),  # every second part is code
        "figures": [
            (caption, f"{FIGURES}/{path.name}", payload.data_uri("png", path.read_bytes())) for caption, path in figures
        ],
    }
