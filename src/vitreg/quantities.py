"""Numbers as a person reads them: in the sentences of records, on the terminal, and on the page.

A measured value has three significant digits; a share is a percentage with two, and a space before the sign. Missing
and non-finite values become an en dash, never ``nan``.
"""

from __future__ import annotations

import math
import re

MISSING = "–"


def number(value: float | None) -> str:
    """Three significant digits, thousands separated: 0.0312, 4.62, 49.6, 152, 1,389, 2.5e30."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size >= 1e7:
        return short(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995 or size == 0:
        return f"{value:.2f}" if size else "0"
    return f"{value:.3g}"


def short(value: float, digits: int = 3) -> str:
    """A finite number without trailing zeros; integers in full up to ten million: 10, 0.5, 1,000, 2.5e30."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e7:
        if value == round(value):
            return f"{value:,.0f}"
        whole = len(f"{abs(int(value))}") if abs(value) >= 1 else 0
        text = f"{value:,.{max(digits - whole, 0)}f}" if whole else f"{value:.{digits}g}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return re.sub(r"e(-?)\+?0*", r"e\1", f"{value:.{digits}g}")


def percent(share: float | None) -> str:
    """A share in 0..1 as percent; a positive share never reads as 0 %, a partial one never as 100 %."""
    if share is None or not math.isfinite(share):
        return MISSING
    value = 100 * share
    if value == 0:
        text = "0"
    elif value < 0.001:
        text = "< 0.001"
    elif value < 0.1:
        text = f"{value:.3f}"
    elif value < 0.995:
        text = f"{value:.2f}"
    elif value < 9.95:
        text = f"{value:.1f}"
    elif value < 99.5 or value == 100:
        text = f"{value:.0f}"
    else:
        text = "> 99" if value < 100 else short(value)
    return f"{text} %"


def there_are(value: int) -> str:
    """Return "there is 1" or "there are 3".

    >>> there_are(1)
    'there is 1'
    """
    return f"there {'is' if value == 1 else 'are'} {value}"


def none_of(blocks: int) -> str:
    """Return "none of the 12 blocks", as the subject of a sentence; a model of one block has no others.

    >>> none_of(1)
    'no block'
    """
    return "no block" if blocks == 1 else f"none of the {blocks} blocks"


def with_left_out(used: int, left_out: int) -> str:
    """Return how many images were used, and how many were left out where any was.

    >>> with_left_out(2, 1)
    '2, 1 left out'
    """
    return f"{used:,}{f', {left_out:,} left out' if left_out else ''}"


def count(value: float, singular: str, plural: str | None = None) -> str:
    """A number of things with the right noun: 1 image, 1,024 images."""
    return f"{value:,.0f} {singular if value == 1 else plural or singular + 's'}"
