"""The page of a reproduction: every claim with its outcome, the paper's number beside ours, the figure, and the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.records.reproduction import PAPER, Claim, ExperimentRecord, Reproduction
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.paper import NotMeasuredError, framed, save_figure
from vitreg.report.reproduction import ledger, papers
from vitreg.report.reproduction.about import CITATION, frame
from vitreg.report.reproduction.tables import as_csv, as_latex, published
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
    records = {each.id: each for each in result.experiments}
    for name, figures in drawings.items():
        drawn[name] = []
        for each, (caption, draw) in figures.items():
            path = folder / f"{each}.png"
            words = partial(frame, result, records[name], caption)
            attempts(f"{FIGURES}/{path.name}", partial(_save, draw, path, words))
            drawn[name] += [(caption, path)] if path.is_file() else []
    _write_tables(result, output_folder(directory / TABLES))
    attempts(PAGE, lambda: shell.write(directory / PAGE, render(result, drawn, attempts)))


def _write_tables(result: Reproduction, folder: Path) -> None:
    """Write numbers as CSV and claims as LaTeX; a table of the paper in its form, with its claims beside it."""
    seed = result.provenance.seed
    write_text(folder / "claims.csv", ledger.as_csv(result))
    for each in result.experiments:
        grid = papers.grid_of(each)
        write_text(folder / f"{each.id}.csv", as_csv(each, seed))
        write_text(folder / f"{each.id}{'-claims' if grid else ''}.tex", as_latex(each, seed))
        if grid is not None:
            write_text(folder / f"{each.id}.tex", papers.as_latex(each, grid))
            write_text(folder / f"{each.id}-paper.csv", papers.as_csv(grid))


def _save(draw: Callable[[], Figure], path: Path, words: Callable[[Figure], str]) -> None:
    """Save a figure in each format with a line below it.

    Args:
        words: of the line.
    """
    try:
        figure = draw()
    except NotMeasuredError:  # the record lacks the data of this figure, which the page shows as absent
        return
    said = words(figure)
    framed(figure, said)
    for kind in FORMATS:
        save_figure(figure, path.with_suffix(f".{kind}"), said)


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
    folded = _folded(each.claims)
    by_claim: dict[str, list[Claim]] = {}
    for claim in each.claims:
        if claim.outcome == OUTCOMES[2] and claim.reason in folded:
            continue
        by_claim.setdefault(claim.id, []).append(claim)
    notes: dict[str, list[str]] = {}
    for found in each.measured:
        if found.note:
            notes.setdefault(found.note, []).append(found.subject)
    return {
        "record": each,
        "claims": list(by_claim.values()),
        "folded": folded,
        "paper_table": papers.grid_of(each) is not None,
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


def _folded(claims: Sequence[Claim]) -> dict[str, list[tuple[str, list[str]]]]:
    """Return reasons for which several claims are not testable, with the claims and the subjects of each."""
    found: dict[str, dict[str, list[str]]] = {}
    for claim in claims:
        if claim.outcome == OUTCOMES[2]:
            found.setdefault(claim.reason, {}).setdefault(claim.says, []).append(claim.subject)
    return {
        reason: list(held.items())
        for reason, held in found.items()
        if sum(len(subjects) for subjects in held.values()) > 1
    }
