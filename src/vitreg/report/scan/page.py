"""One self-contained HTML page from the record of a scan: it opens from disk and loads nothing.

The page gives the verdict first, then the photographs with their maps, then the charts behind the verdict. Charts are
inline SVG (`charts`), maps are drawn on canvas from the data block (`cards`, `payload`). Names of files and models are
untrusted text: the template escapes them, and a content security policy lets only our script run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitreg.records import Example, ScanResult
from vitreg.report import shell, words
from vitreg.report.attempts import Attempts
from vitreg.report.run import charts as charts_run
from vitreg.report.scan import kept
from vitreg.report.scan.advice import next_steps
from vitreg.report.scan.cards import cards_of
from vitreg.report.scan.charts import histogram, norms, pairs
from vitreg.report.scan.figures import write_figures
from vitreg.writing.files import output_folder

FILE_NAME = "report.html"
WIDE = ("norms", "histogram", "watched")  # charts as wide as the page
SKIPPED_SHOWN = 200  # rows; the rest is in result.json


def draw_scan(
    result: ScanResult, examples: Sequence[Example], directory: Path, attempts: Attempts, *, keep: bool = True
) -> None:
    """Draw the figures and the page into a folder, and keep the examples for other pages.

    Args:
        attempts: collects drawings that fail; the page lists them.
        keep: whether to keep the examples and draw them from the kept file, so that redrawing shows the same.
    Raises:
        UserError: if the folder cannot be written.
    """
    if keep:
        attempts(kept.FILE_NAME, lambda: kept.write_examples(examples, directory))
        with contextlib.suppress(ValueError):  # they could not be kept
            examples = kept.read_examples(directory)
    write_figures(result, examples, directory, attempts)
    attempts(FILE_NAME, lambda: write_report(result, examples, directory, attempts))


def write_report(
    result: ScanResult, examples: Sequence[Example], directory: Path, attempts: Attempts | None = None
) -> Path:
    """Write ``directory/report.html`` and return its path; an earlier page is replaced only by a complete one.

    Args:
        result: the record of the scan.
        examples: images with their maps, in any order; may be empty.
        directory: created if it does not exist.
        attempts: collects charts that fail, beside earlier failures; the page lists all of them.
    Raises:
        UserError: if the folder cannot be written, with the reason of the system.
    """
    return shell.write(output_folder(Path(directory)) / FILE_NAME, render(result, examples, attempts))


def render(result: ScanResult, examples: Sequence[Example], attempts: Attempts | None = None) -> str:
    """Return the page as text; see ``write_report``."""
    attempts = Attempts() if attempts is None else attempts
    view = _view(result, examples, attempts)
    return shell.render("report.html.j2", result=result, undrawn=attempts.failed, **view)


def _view(result: ScanResult, examples: Sequence[Example], attempts: Attempts) -> dict[str, Any]:
    """Everything in the template that is not a field of the record."""
    shown = words.shown_layer(result)
    ordered = sorted(examples, key=lambda e: -int(e.outliers.sum()))
    folder, short = words.relative([e.name for e in ordered] + [s.name for s in result.images.skipped])
    threshold = shown.threshold if shown else None
    images = cards_of([(short[e.name], e, threshold) for e in ordered], attempts, result.positions)
    found = [layer.index for layer in result.layers if layer.threshold is not None]
    return {
        "verdict_kind": words.kind(result.verdict),
        "tone": words.tone(result.verdict),
        "confidence": words.confidence(result.verdict),
        "confidence_why": words.confidence_why(result.verdict),
        "shown": shown,
        "found": (min(found), max(found)) if found else None,
        "charts": _charts(result, attempts),
        "images": images,
        "groups": _groups(images.cards),
        "folder": folder,
        "rows": [[_placed(chart, result) for chart in row] for row in pairs.ROWS],
        "steps": next_steps(result),
        "data": images.data,
        "skipped_shown": [(short[s.name], s.reason) for s in result.images.skipped[:SKIPPED_SHOWN]],
        "reasons": _reasons(result),
    }


def _placed(chart: pairs.Chart, result: ScanResult) -> dict[str, Any]:
    """Return the words around a chart, for the template."""
    return {
        "name": pairs.name_of(chart),
        "title": chart.ABOUT.title,
        "paper": chart.ABOUT.paper,
        "legend": chart.ABOUT.legend,
        "caption": chart.caption(result),
        "missing": chart.missing(result),
    }


def _charts(result: ScanResult, attempts: Attempts) -> dict[str, Markup | None]:
    """Every chart by its name in the template; None if it was not measured, or could not be drawn."""
    shown = words.shown_layer(result)
    drawn: dict[str, Callable[[float], Markup | None]] = {
        "norms": lambda w: norms.svg(result, w, 400 if w == shell.FULL else 320),
        "watched_norms": lambda w: (
            charts_run.norms(result.watched, w, 380 if w == shell.FULL else 300) if result.watched else None
        ),
        "watched_blocks": lambda w: charts_run.outliers_by_block(result.watched, w) if result.watched else None,
    }
    for chart in pairs.CHARTS:
        drawn[pairs.name_of(chart)] = lambda w, chart=chart: chart.svg(result, w)
    for scale in histogram.COUNT_SCALES:
        drawn[f"histogram_{scale}"] = lambda w, scale=scale: (
            histogram.svg(shown, w, 360 if w == shell.FULL else 300, scale) if shown else None
        )

    def both(name: str, draw: Callable[[float], Markup | None]) -> Markup | None:
        return shell.two_widths(draw(shell.FULL if name.startswith(WIDE) else shell.HALF), draw(shell.PHONE))

    return {
        name: attempts(f"chart of {name.replace('_', ' ')}", lambda name=name, draw=draw: both(name, draw))
        for name, draw in drawn.items()
    }


def _groups(cards: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Group the images, most outliers first: two groups if they differ, else one."""
    if len({card["outliers"] for card in cards}) <= 1:
        return [("Example images", list(cards))] if cards else []
    half = (len(cards) + 1) // 2
    return [("More outliers", list(cards[:half])), ("Fewer outliers", list(cards[half:]))]


def _reasons(result: ScanResult) -> list[tuple[str, int]]:
    """Count each reason among the skipped images, most frequent first."""
    tally: dict[str, int] = {}
    for skipped in result.images.skipped:
        tally[skipped.reason] = tally.get(skipped.reason, 0) + 1
    return sorted(tally.items(), key=lambda item: -item[1])
