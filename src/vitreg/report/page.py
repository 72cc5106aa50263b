"""One self-contained HTML page from the record of a scan: it opens from disk and loads nothing.

The page says the verdict first and shows after it what the verdict stands on. Charts are inline SVG (`charts_depth`,
`charts_counts`), maps are drawn on canvas from the data block (`payload`). Names of files and models are foreign text:
the template escapes all of it, and a content security policy lets no other script than our own run.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vitreg.files import output_folder, replacing
from vitreg.records import Example, ScanResult

from . import charts_counts, charts_depth, payload, words

FILE_NAME = "report.html"
SKIPPED_SHOWN = 200  # rows; the rest is in result.json
FULL, HALF, PHONE = 1040, 500, 340  # widths in pixels that charts are drawn for


def write_report(result: ScanResult, examples: Sequence[Example], directory: Path) -> Path:
    """Write ``directory/report.html`` and return its path; a page that was there is replaced only by a complete one.

    Args:
        result: the record of the scan.
        examples: images with their maps, in any order; may be empty.
        directory: made if it does not exist.
    Raises:
        UserError: if the folder cannot be written, with the reason of the system.
    """
    page = render(result, examples)
    path = output_folder(Path(directory)) / FILE_NAME
    with replacing(path) as draft:
        # Undecodable bytes of a file name are lone surrogates in Python and cannot be written as UTF-8.
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def render(result: ScanResult, examples: Sequence[Example]) -> str:
    """Return the page as text; see ``write_report``."""
    environment = Environment(
        loader=PackageLoader("vitreg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "percent": words.percent,
        "times": words.times,
        "code": _code,
        "effects": words.effects,
        "grouped": lambda value: f"{value:,}",
        "pretty": lambda value: json.dumps(value, indent=2, default=str, ensure_ascii=False),
    }
    environment.globals["count"] = words.count
    style, script = _asset("report.css"), _asset("report.js")
    return environment.get_template("report.html.j2").render(
        result=result,
        style=style,
        script=script,
        policy=_policy(style, script),
        **_view(result, examples),
    )


def _view(result: ScanResult, examples: Sequence[Example]) -> dict[str, Any]:
    """Everything the template shows that is not a field of the record itself."""
    shown = words.shown_layer(result)
    groups = _groups(examples)
    ordered = [example for _, members in groups for example in members]
    place = itertools.count()  # of each example in the data block
    return {
        "verdict_kind": words.kind(result),
        "confidence": words.confidence(result.verdict.confidence),
        "shown": shown,
        "charts": _charts(result),
        "groups": [(title, [_card(e, next(place)) for e in members]) for title, members in groups],
        "scale": payload.Scale.of(ordered),
        "attended": max((min(e.attends.shape[1], payload.ATTENDED) for e in ordered), default=0),
        "registers": max((len(e.register_attention) for e in ordered), default=0),
        "has_cls": any(e.cls_attention is not None for e in ordered),
        "data": payload.data_block(result, ordered),
        "skipped_shown": result.images.skipped[:SKIPPED_SHOWN],
        "reasons": _reasons(result),
    }


def _charts(result: ScanResult) -> dict[str, Markup | None]:
    """Draw every chart for a desktop and for a phone; the style sheet shows one of them."""
    shown = words.shown_layer(result)
    drawn = {
        "norms": lambda w: charts_depth.norms_per_layer(result, w, 400 if w == FULL else 320),
        "per_image": lambda w: (
            charts_counts.per_image(result.per_image, w, 490 if w == HALF else 300) if result.per_image else None
        ),
        "redundancy": lambda w: charts_counts.redundancy(result, w, 300),
        "attention": lambda w: charts_depth.attention(result, w, 300),
        "positions": lambda w: charts_counts.positions(result, w),
    }
    for scale in charts_counts.COUNT_SCALES:
        drawn[f"histogram_{scale}"] = lambda w, scale=scale: (
            charts_counts.histogram(shown, w, 360 if w == FULL else 300, scale) if shown else None
        )
    return {
        name: _two_widths(draw(FULL if name == "norms" or "histogram" in name else HALF), draw(PHONE))
        for name, draw in drawn.items()
    }


def _two_widths(wide: Markup | None, narrow: Markup | None) -> Markup | None:
    if wide is None or narrow is None:
        return None
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


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


def _code(text: str) -> Markup:
    """Escape a text and set what stands between backticks as code."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is a character, not a mark
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def _asset(name: str) -> Markup:
    """One of our own files, put into the page as it is."""
    return Markup((resources.files("vitreg.report") / "templates" / name).read_text(encoding="utf-8"))


def _policy(style: str, script: str) -> str:
    """A content security policy: our style and our script by their hashes, pictures inside the page, nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )
