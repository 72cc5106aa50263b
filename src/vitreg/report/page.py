"""One self-contained HTML page from the record of a scan: it opens from disk and loads nothing.

The page says the verdict first and shows after it what the verdict stands on. Charts are inline SVG (`charts_depth`,
`charts_counts`), maps are drawn on canvas from the data block (`payload`). Names of files and models are foreign text:
the template escapes all of it, and a content security policy lets no other script than our own run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitreg.files import output_folder
from vitreg.records import Example, ScanResult

from . import charts_counts, charts_depth, charts_run, payload, shell, words
from .attempts import Attempts
from .figures import write_figures

FILE_NAME = "report.html"
WIDE = ("norms", "histogram", "watched")  # charts as wide as the page
SKIPPED_SHOWN = 200  # rows; the rest is in result.json


def draw_scan(result: ScanResult, examples: Sequence[Example], directory: Path, attempts: Attempts) -> None:
    """Draw what people look at, the figures and the page, into a folder.

    Args:
        attempts: takes account of what could not be drawn; the rest is there, and the page names it too.
    Raises:
        UserError: if the folder cannot be written.
    """
    write_figures(result, examples, directory, attempts)
    attempts(FILE_NAME, lambda: write_report(result, examples, directory, attempts))


def write_report(
    result: ScanResult, examples: Sequence[Example], directory: Path, attempts: Attempts | None = None
) -> Path:
    """Write ``directory/report.html`` and return its path; a page that was there is replaced only by a complete one.

    Args:
        result: the record of the scan.
        examples: images with their maps, in any order; may be empty.
        directory: made if it does not exist.
        attempts: takes account of the charts that fail, and brings what failed before; the page names all of it.
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
    """Everything the template shows that is not a field of the record itself."""
    examples = [e for e in examples if attempts(f"maps of {e.name}", lambda e=e: _drawable(result, e))]
    shown = words.shown_layer(result)
    groups = _groups(examples)
    ordered = [example for _, members in groups for example in members]
    place = itertools.count()  # of each example in the data block
    return {
        "verdict_kind": words.kind(result),
        "confidence": words.confidence(result.verdict),
        "shown": shown,
        "charts": _charts(result, attempts),
        "groups": [(title, [_card(e, next(place)) for e in members]) for title, members in groups],
        "scale": payload.Scale.of(ordered),
        "attended": max((min(e.attends.shape[1], payload.ATTENDED) for e in ordered), default=0),
        "registers": max((len(e.register_attention) for e in ordered), default=0),
        "has_cls": any(e.cls_attention is not None for e in ordered),
        "data": payload.data_block(result, ordered),
        "skipped_shown": result.images.skipped[:SKIPPED_SHOWN],
        "reasons": _reasons(result),
    }


def _charts(result: ScanResult, attempts: Attempts) -> dict[str, Markup | None]:
    """Every chart by its name in the template; None where it was not measured, or could not be drawn."""
    shown = words.shown_layer(result)
    # The chart next to the places is as tall as they are.
    beside = attempts("chart of positions", lambda: charts_counts.positions(result, shell.HALF))
    drawn = {
        "norms": lambda w: charts_depth.norms_per_layer(result, w, 400 if w == shell.FULL else 320),
        "per_image": lambda w: (
            charts_counts.per_image(result.per_image, w, 490 if beside and w == shell.HALF else 300)
            if result.per_image
            else None
        ),
        "redundancy": lambda w: charts_counts.redundancy(result, w, 300),
        "attention": lambda w: charts_depth.attention(result, w, 300),
        "positions": lambda w: charts_counts.positions(result, w),
        "watched_norms": lambda w: (
            charts_run.norms(result.watched, w, 380 if w == shell.FULL else 300) if result.watched else None
        ),
        "watched_blocks": lambda w: charts_run.outliers_by_block(result.watched, w) if result.watched else None,
    }
    for scale in charts_counts.COUNT_SCALES:
        drawn[f"histogram_{scale}"] = lambda w, scale=scale: (
            charts_counts.histogram(shown, w, 360 if w == shell.FULL else 300, scale) if shown else None
        )

    def both(name: str, draw: Callable[[float], Markup | None]) -> Markup | None:
        return shell.two_widths(draw(shell.FULL if name.startswith(WIDE) else shell.HALF), draw(shell.PHONE))

    return {
        name: attempts(f"chart of {name.replace('_', ' ')}", lambda name=name, draw=draw: both(name, draw))
        for name, draw in drawn.items()
    }


def _groups(examples: Sequence[Example]) -> list[tuple[str, list[Example]]]:
    """Most outliers first; two groups where the images differ, one where they do not."""
    ordered = sorted(examples, key=lambda e: -int(e.outliers.sum()))
    if not ordered:
        return []
    counts = [int(e.outliers.sum()) for e in ordered]
    if len(set(counts)) == 1:
        return [("Example images", ordered)]
    half = (len(ordered) + 1) // 2
    return [("Most outliers", ordered[:half]), ("Fewest outliers", ordered[half:])]


def _drawable(result: ScanResult, example: Example) -> bool:
    """Whether an image can be shown: raises what keeps it from that."""
    return bool(payload.data_block(result, [example]) and payload.picture(example))


def _card(example: Example, index: int) -> dict[str, Any]:
    rows, cols = example.norms.shape
    outliers = int(example.outliers.sum())
    return {
        "index": index,
        "name": example.name,
        "picture": payload.picture(example),
        "width": example.image.shape[1],
        "height": example.image.shape[0],
        "rows": rows,
        "cols": cols,
        "outliers": outliers,
        "share": outliers / (rows * cols),
        "attention": (["CLS"] if example.cls_attention is not None else [])
        + [f"register {i + 1}" for i in range(len(example.register_attention))],
    }


def _reasons(result: ScanResult) -> list[tuple[str, int]]:
    """How often each reason occurs among the skipped images, the most frequent first."""
    tally: dict[str, int] = {}
    for skipped in result.images.skipped:
        tally[skipped.reason] = tally.get(skipped.reason, 0) + 1
    return sorted(tally.items(), key=lambda item: -item[1])
