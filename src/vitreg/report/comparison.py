"""Several scans on one page: verdicts side by side, norms along the depth on a shared scale, links to the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitreg.files import output_folder
from vitreg.records import Example, ScanResult

from . import charts_counts, charts_depth, shell, words
from .attempts import Attempts
from .cards import cards_of


def write_comparison(
    scans: Sequence[tuple[str, ScanResult, str]],
    path: Path,
    *,
    title: str,
    note: str = "",
    pictures: Sequence[tuple[str, Sequence[Example]]] = (),
) -> Path:
    """Write one self-contained page that compares scans, and return its path.

    Args:
        scans: (name, record, folder of its `report.html` relative to the page), from left to right.
        path: the HTML file to write; its folder is made if it does not exist.
        title: heading of the page.
        note: what a reader must know before comparing, below the heading.
        pictures: (name, the maps of that image by every scan, in their order), shown first.
    Raises:
        UserError: if the folder cannot be written.
    """
    spans = [span for _, result, _ in scans if (span := charts_depth.norm_span(result))]
    span = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
    attempts = Attempts()
    named = [
        (f"{scans[place][0]}: {picture}", example, _threshold(scans[place][1]))
        for picture, examples in pictures
        for place, example in enumerate(examples)
    ]
    images = cards_of(named, attempts)
    columns = []
    for name, result, folder in scans:
        shown = words.shown_layer(result)
        norms, counts = (
            attempts(
                f"chart of {what} of {name}",
                lambda draw=draw: shell.two_widths(*(draw(width) for width in (shell.HALF, shell.PHONE))),
            )
            for what, draw in (
                ("norms", lambda width, result=result: charts_depth.norms_per_layer(result, width, 340, span)),
                ("histogram", lambda width, shown=shown: charts_counts.histogram(shown, width, 300) if shown else None),
            )
        )
        columns.append(
            {
                "name": name,
                "result": result,
                "report": f"{folder}/report.html" if folder else "report.html",
                "kind": words.kind(result),
                "confidence": words.confidence(result.verdict),
                "shown": shown,
                "norms": norms,
                "counts": counts,
            }
        )
    page = shell.render(
        "comparison.html.j2",
        title=title,
        note=note,
        columns=columns,
        undrawn=attempts.failed,
        images=images,
        data=images.data,
    )
    return shell.write(output_folder(Path(path).parent) / Path(path).name, page)


def _threshold(result: ScanResult) -> float | None:
    shown = words.shown_layer(result)
    return shown.threshold if shown else None
