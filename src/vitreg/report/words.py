"""Numbers and verdicts of a ``ScanResult`` as words, the same on the page and in the figures.

Values that are missing or not finite become an en dash, never ``nan``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from vitreg import quantities
from vitreg.quantities import MISSING, number, short
from vitreg.records import Histogram, LayerRecord, ScanResult, VerdictRecord

_SPACE = "\N{NO-BREAK SPACE}"
PERCENT = f"{_SPACE}%"  # after every percentage: 34.6 %
KINDS = {
    "none": "no artifacts found",
    "high-norm": "high-norm artifacts",
    "low-norm": "low-norm artifacts",
    "position-locked": "position-locked artifacts",
}


def percent(share: float | None) -> str:
    """Format a share in percent (`quantities.percent`), with a non-breaking space."""
    return quantities.percent(share).replace(" ", _SPACE)


def hundredths(value: float | None) -> str:
    """Format a number already in percent: 34.6 %."""
    text = number(value)
    return text if text == MISSING else f"{text}{PERCENT}"


def spaced(text: str) -> str:
    """Write the percentages in a record's sentence in the page's style: 34.6 %, not 34.6%."""
    return re.sub(r"(?<=\d)\s?%", PERCENT, text)


def headline(text: str) -> tuple[str, str]:
    """Split a sentence into its finding and its numbers; the second is empty for a single statement.

    >>> headline("This model has mild artifacts: 5 in 1000 patches.")
    ('This model has mild artifacts.', '5 in 1000 patches.')
    """
    text = re.sub(r" \(([^()]+)\)\.$", r": \1.", text)  # numbers in brackets at the end
    first, _, rest = (re.sub(r": |(?<=[a-z)])\. (?=[A-Z])", "\n", text, count=1)).partition("\n")
    return (f"{first}.", rest[:1].upper() + rest[1:]) if rest else (first, "")


def times(value: float | None) -> str:
    """A ratio with its sign: 11.3×."""
    return MISSING if value is None or not math.isfinite(value) else f"{number(value)}×"


def count(value: float, singular: str, plural: str | None = None) -> str:
    """Format a number of things (`quantities.count`), with a non-breaking space."""
    return quantities.count(value, singular, plural).replace(" ", _SPACE, 1)


def confidence(verdict: VerdictRecord) -> str:
    """Confidence as a word: from the resamples that agree, and for "none" also from what the images could have shown."""
    if verdict.confidence is None:
        return "unknown"
    words = ("low", "fair", "high")
    agreed = 2 if verdict.confidence >= 0.95 else 1 if verdict.confidence >= 0.8 else 0
    return words[agreed if verdict.kind != "none" else min(agreed, _power(verdict))]


def confidence_why(verdict: VerdictRecord) -> str:
    """The reason for the confidence."""
    if verdict.confidence is None:
        return "too few images to resample"
    if verdict.undecided:
        return f"artifacts in {percent(1 - verdict.confidence)} of resamples"
    if verdict.kind == "none" and _power(verdict) < 2:
        return "these images exclude too little"
    return f"{percent(verdict.confidence)} of resamples agree"


def _power(verdict: VerdictRecord) -> int:
    """0 if moderate effects could be missed by these images, 1 if mild ones could, 2 otherwise or if unknown."""
    if verdict.power is None:
        return 2
    return 2 if verdict.power.excludes("mild") else 1 if verdict.power.excludes("moderate") else 0


def kind(verdict: VerdictRecord) -> str:
    """The kind of verdict as a phrase for a non-specialist; "none" claims no more than the images could have shown."""
    if verdict.undecided:
        return "not established"
    if verdict.kind == "none":
        return ("too few images to tell", "mild artifacts not excluded", KINDS["none"])[_power(verdict)]
    return KINDS[verdict.kind]


def tone(verdict: VerdictRecord) -> str:
    """The colour class of a verdict: its strength, or "clear" if even mild artifacts are excluded.

    Any other "none" is "open" without a colour, because green would claim more than the images show.
    """
    if verdict.kind != "none":
        return verdict.strength
    return "clear" if confidence(verdict) == "high" and verdict.power is not None and not verdict.undecided else "open"


def middle(text: str, most: int) -> str:
    """Shorten a name in its middle to at most `most` letters, because names of runs and files often differ at the end."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that exist and are finite, in order."""
    return [v for v in values if v is not None and math.isfinite(v)]


def relative(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split names of images into their common folder and the short name of each."""
    parts = {name: name.split("/") for name in names}
    folders = [tuple(each[:-1]) for each in parts.values()]
    shared = []
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared), {name: "/".join(each[len(shared) :]) for name, each in parts.items()}


def shown_layer(result: ScanResult) -> LayerRecord | None:
    """Return the layer to show: the peak, or without outliers the one whose largest norms come nearest to standing out.

    None without layers.
    """
    by_index = {layer.index: layer for layer in result.layers}
    peak = result.verdict.peak_layer
    if peak is not None and peak in by_index:
        return by_index[peak]
    return max(result.layers, key=_stretch, default=None)


def _stretch(layer: LayerRecord) -> float:
    """Distance of the largest norms from the median, by the 99.9th percentile, as the maximum is a single token."""
    top = layer.quantiles.get("0.999", layer.p99)
    return top / layer.median if layer.median > 0 and math.isfinite(top) else 0.0


def density(histogram: Histogram) -> list[float]:
    """Counts over (total x bin width), so that the area is 1; all zeros for an empty histogram."""
    total = sum(histogram.counts)
    widths = [b - a for a, b in zip(histogram.edges, histogram.edges[1:], strict=False)]
    return [c / total / w if total and w > 0 else 0.0 for c, w in zip(histogram.counts, widths, strict=True)]


def countable(histogram: Histogram) -> bool:
    """Whether a histogram can be drawn: something was counted, and all edges and counts are finite."""
    return all(map(math.isfinite, [*histogram.edges, *histogram.counts])) and sum(histogram.counts) > 0


def trimmed(histogram: Histogram, margin: int = 1) -> Histogram:
    """The histogram without its empty ends, keeping `margin` empty bins on each side."""
    filled = [i for i, c in enumerate(histogram.counts) if c > 0]
    if not filled:
        return histogram
    first = max(filled[0] - margin, 0)
    last = min(filled[-1] + margin, len(histogram.counts) - 1)
    return Histogram(
        edges=histogram.edges[first : last + 2], counts=histogram.counts[first : last + 1], unit=histogram.unit
    )


def bin_name(low: float, high: float) -> str:
    """The whole numbers that a bin of counts holds: '3', '3–5'; bins are [low, high) over non-negative integers."""
    first, last = math.ceil(low), math.ceil(high) - 1
    return short(first) if last <= first else f"{short(first)}–{short(last)}"
