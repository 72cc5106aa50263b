"""A badge for a README: an SVG of two fields, what was looked for and what was seen. It never says more than the scan."""

from __future__ import annotations

from markupsafe import Markup

from vitreg.quantities import percent
from vitreg.records.zoo import BoardRow
from vitreg.report.svg import element

LABEL = "ViT artifacts"
HEIGHT, PADDING, LETTER = 20.0, 8.0, 6.2  # pixels; a letter of 11 pixels is about so wide, and `textLength` makes it so
COLOURS = {"none": "#17724f", "open": "#565f6b", "mild": "#7d5a00", "moderate": "#a8430a", "strong": "#b03c17"}
"""Behind white letters; contrast above 4.5."""
GROUND = "#333a44"


def badge_of(row: BoardRow) -> str:
    """Return the badge as the text of an SVG file."""
    value, tone = says(row)
    planted = row.note.startswith("PLANTED") or row.model.startswith("planted:")
    label = f"{LABEL} (planted)" if planted else LABEL
    left, right = (round(len(text) * LETTER + 2 * PADDING, 1) for text in (label, value))
    title = f"{label}: {value}. {row.model}, vitreg scan"
    parts = [
        element("title", title),
        element("rect", width=left, height=HEIGHT, fill=GROUND),
        element("rect", x=left, width=right, height=HEIGHT, fill=COLOURS[tone]),
        _text(label, left / 2, left - 2 * PADDING),
        _text(value, left + right / 2, right - 2 * PADDING),
    ]
    svg = element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", width=left + right, height=HEIGHT,
        viewBox=f"0 0 {left + right:g} {HEIGHT:g}", role="img", aria_label=title,
    )  # fmt: skip
    return f"{svg}\n".replace("viewbox", "viewBox")


def says(row: BoardRow) -> tuple[str, str]:
    """Return what the badge says, and the tone of its colour.

    Without outliers it says what the images would have shown, because seeing none is no proof that there are none.
    """
    if row.kind != "none":
        kind = str(row.kind).replace("-norm", " norm").replace("-locked", " locked")
        return f"{row.strength} {kind}, {percent(row.share)} of patches", str(row.strength)
    if row.unranked.startswith("Artifacts are neither"):
        return "not established", "open"
    if row.unranked or row.high is None:
        return "none seen, too few images to exclude mild ones", "open"
    return f"none seen (mild ones from {percent(row.high)} would be)", "none"


def _text(words: str, middle: float, length: float) -> Markup:
    return element(
        "text", words, x=round(middle, 1), y=14.0, fill="#fff", font_family="Verdana,DejaVu Sans,Arial,sans-serif",
        font_size=11, text_anchor="middle", textLength=round(length, 1),
    )  # fmt: skip
