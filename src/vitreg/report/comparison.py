"""Several scans on one page: verdicts side by side, norms along the depth on a shared scale, links to the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitreg.files import output_folder
from vitreg.records import ScanResult

from . import charts_counts, charts_depth, payload, shell, words
from .attempts import Attempts


def write_comparison(scans: Sequence[tuple[str, ScanResult, str]], path: Path, *, title: str, note: str = "") -> Path:
    """Write one self-contained page that compares scans, and return its path.

    Args:
        scans: (name, record, folder of its `report.html` relative to the page), from left to right.
        path: the HTML file to write; its folder is made if it does not exist.
        title: heading of the page.
        note: what a reader must know before comparing, below the heading.
    Raises:
        UserError: if the folder cannot be written.
    """
    spans = [span for _, result, _ in scans if (span := charts_depth.norm_span(result))]
    span = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
    attempts = Attempts()
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
        data=payload.empty_block(),
    )
    return shell.write(output_folder(Path(path).parent) / Path(path).name, page)
