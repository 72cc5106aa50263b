"""The numbers of a row as a person reads them; the same on the page, in the card and on the terminal."""

from __future__ import annotations

from vitreg.quantities import MISSING, number, percent
from vitreg.records.zoo import BoardRow


def interval(row: BoardRow) -> str:
    """Return the interval of the share; empty where there is none."""
    if row.low is None or row.high is None:
        return ""
    return (
        f"(up to {percent(row.high)} may be missed)"
        if row.kind == "none"
        else f"({percent(row.low)} to {percent(row.high)})"
    )


def ratio(value: float | None) -> str:
    """Return a ratio of norms."""
    return MISSING if value is None else f"{number(value)} times"


def of_blocks(block: int | None, blocks: int | None) -> str:
    """Return a block, counted from 0, of how many."""
    return MISSING if block is None or blocks is None else f"block {block} of 0 to {blocks - 1}"


def attention(row: BoardRow) -> str:
    """Return the share of attention that outliers take, and of which tokens."""
    return MISSING if row.attention is None else f"{percent(row.attention)} of {row.attention_of}"


def rank(row: BoardRow) -> str:
    """Return a rank: a place, or the places that the intervals allow."""
    if row.rank is None:
        return MISSING
    first, last = row.rank
    return str(first) if first == last else f"{first}–{last}"


def in_a_line(row: BoardRow) -> str:
    """Return a row for the terminal."""
    if row.failed:
        return f"{row.model}: {row.failed}"
    if row.kind == "none":
        return f"{row.model}: {row.verdict}"
    words = [row.verdict, f"{percent(row.share)} of the patches {interval(row)}".rstrip()]
    words += [f"{number(row.ratio_peak)} times the median norm"] if row.ratio_peak else []
    return f"{row.model}: {', '.join(words)}"
