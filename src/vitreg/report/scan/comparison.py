"""Several scans on one page: the same images through all models, verdicts, and norms on shared axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from vitreg.records import Example, ScanResult
from vitreg.report import shell, words
from vitreg.report.attempts import Attempts
from vitreg.report.scan.advice import shared_steps
from vitreg.report.scan.cards import cards_of
from vitreg.report.scan.charts import histogram, overlay
from vitreg.report.scan.charts import norms as norms_chart
from vitreg.report.scan.charts.overlay import line_class, one_block
from vitreg.writing.files import output_folder

Scan = tuple[str, ScanResult, str]
N = TypeVar("N", int, float)


def write_comparison(
    scans: Sequence[Scan],
    path: Path,
    *,
    title: str,
    note: str = "",
    pictures: Sequence[tuple[str, Sequence[Example]]] = (),
    no_pictures: str = "",
    attention: bool = False,
) -> Path:
    """Write one self-contained page that compares scans, and return its path.

    Args:
        scans: (name, record, folder of its `report.html` relative to the page), from left to right.
        path: the HTML file to write; its folder is created if it does not exist.
        title: heading of the page.
        note: caution for the reader, below the heading.
        pictures: (name, maps of the image by each scan, in order), shown first.
        no_pictures: why there are no pictures.
        attention: whether the attention of CLS is shown beside the norms at once, not behind a switch.
    Raises:
        UserError: if the folder cannot be written.
    """
    attempts = Attempts()
    maps = [
        (f"{name}: {picture}", example, _threshold(result))
        for picture, examples in pictures
        for (name, result, _), example in zip(scans, examples, strict=True)
    ]
    images = cards_of(maps, attempts)
    page = shell.render(
        "comparison.html.j2",
        title=title,
        note=note,
        columns=[_column(*scan) for scan in scans],
        results=[result for _, result, _ in scans],
        charts=_charts(scans, attempts),
        together=_together(scans, attempts),
        attention_first=attention and images.has_attention,
        groups=_by_picture(images.cards, [name for name, _ in pictures]),
        steps=shared_steps([(name, result) for name, result, _ in scans]),
        undrawn=attempts.failed,
        images=images,
        pictures=len(pictures),
        no_pictures=no_pictures,
        data=images.data,
    )
    return shell.write(output_folder(Path(path).parent) / Path(path).name, page)


def _column(name: str, result: ScanResult, folder: str) -> dict[str, Any]:
    """The page's entry for one scan."""
    return {
        "name": name,
        "result": result,
        "report": f"{folder}/report.html" if folder else "report.html",
        "kind": words.kind(result.verdict),
        "tone": words.tone(result.verdict),
        "confidence": words.confidence(result.verdict),
        "shown": words.shown_layer(result),
    }


def _charts(scans: Sequence[Scan], attempts: Attempts) -> list[dict[str, Markup | None]]:
    """Norms along the depth and at one block of every scan, on shared axes."""
    results = [result for _, result, _ in scans]
    shown = [words.shown_layer(result) for result in results]
    norms = _around(norms_chart.norm_span(result) for result in results)
    blocks = _around(norms_chart.block_span(result) for result in results)
    ranges = [found for layer in shown if layer and (found := histogram.ranges_of(layer))]
    lengths, shares = _around(each for each, _ in ranges), _around(each for _, each in ranges)
    both = (lengths, shares) if lengths and shares else None

    def draw(what: str, chart: Callable[[float], Markup | None]) -> Markup | None:
        return attempts(f"chart of {what}", lambda: shell.two_widths(chart(shell.HALF), chart(shell.PHONE)))

    return [
        {
            "norms": draw(
                f"norms of {name}",
                partial(norms_chart.svg, result, height=340, span=norms, blocks=blocks),
            ),
            "counts": draw(f"histogram of {name}", partial(histogram.svg, layer, height=300, ranges=both))
            if layer
            else None,
        }
        for (name, result, _), layer in zip(scans, shown, strict=True)
    ]


def _together(scans: Sequence[Scan], attempts: Attempts) -> dict[str, Any]:
    """The norms of all scans at one block on one axis, and the legend."""
    layers = one_block([result for _, result, _ in scans])
    named = [(name, layer) for (name, _, _), layer in zip(scans, layers, strict=True)]
    chart = attempts(
        "chart of all models at one block",
        lambda: shell.two_widths(overlay.svg(named, shell.FULL, 380), overlay.svg(named, shell.PHONE, 320)),
    )
    legend = [
        (line_class(place), f"{name}, block {layer.index}")
        for place, (name, layer) in enumerate(named)
        if layer is not None
    ]
    return {"chart": chart, "legend": legend, "cut": any(layer and layer.threshold is not None for layer in layers)}


def _by_picture(cards: Sequence[dict[str, Any]], pictures: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Group the cards by photograph, one row each; the name is shown once if a photograph has several cards."""
    groups = [
        (name, [card for card in cards if card["name"].endswith(f": {name}")]) for name in dict.fromkeys(pictures)
    ]
    placed = {card["index"] for _, own in groups for card in own}
    rest = [card for card in cards if card["index"] not in placed]
    return [(name, own) for name, own in [*groups, ("", rest)] if own]


def _around(spans: Iterable[tuple[N, N] | None]) -> tuple[N, N] | None:
    """Return the range that covers all spans; None spans are ignored."""
    known = [span for span in spans if span is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _threshold(result: ScanResult) -> float | None:
    shown = words.shown_layer(result)
    return shown.threshold if shown else None
