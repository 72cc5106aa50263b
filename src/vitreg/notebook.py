"""How results show themselves: as a card in a notebook, and as a table of pandas. No torch here.

Colours are inherited, and lines are half transparent, so that a card is readable in light and in dark.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any, cast

from vitreg.errors import UserError
from vitreg.writing.files import printable

if TYPE_CHECKING:
    from pandas import DataFrame

Fact = tuple[str | None, Any]
Row = dict[str, Any]

_LONGEST = 300  # characters of a value
_MOST = 24  # rows of a table
_LINE = "border-bottom:1px solid #8886"
_CELL = "vertical-align:top;padding:1px 14px 1px 0"
_WORDS, _NUMBERS = f"text-align:left;{_CELL}", f"text-align:right;white-space:nowrap;{_CELL}"
_STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:4px 0"


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What a card shows.

    Args:
        title: what the result is.
        sentence: what it found.
        facts: names and values.
        table: rows of the same columns, of which the first 24 are shown.
        counted: the rows of the table by name, such as blocks.
    """

    title: str
    sentence: str = ""
    facts: Iterable[Fact] = ()
    table: Sequence[Mapping[str, Any]] = ()
    counted: str = "rows"


class Shown:
    """A result that a notebook shows as a card. By itself a dataclass shows its fields."""

    __slots__ = ()

    def _brief(self) -> Brief:
        return Brief(
            title=type(self).__name__, facts=[(f.name, getattr(self, f.name)) for f in fields(cast(Any, self))]
        )

    def _repr_html_(self) -> str:
        return card(self._brief())


class Tabled(Shown):
    """A result with rows."""

    __slots__ = ()

    def _rows(self) -> list[Row]:
        raise NotImplementedError

    def to_pandas(self) -> DataFrame:
        """Return the rows of the result as a table of pandas.

        Raises:
            UserError: if pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise UserError("a table of pandas needs the package pandas; install 'vitreg[notebook]'.") from None
        return DataFrame(self._rows())


def card(brief: Brief) -> str:
    """Lay out a sentence, facts and a table as HTML; long values and tables are cut."""
    names = "".join(
        f"<tr><th style='{_WORDS}'>{_said(name)}</th><td style='{_WORDS}'>{_said(value)}</td></tr>"
        for name, value in brief.facts
    )
    said = f"<b>{escape(brief.title)}</b> {escape(printable(brief.sentence))}"
    return f"<div><p style='max-width:60em;margin:4px 0'>{said}</p><table style='{_STYLE}'>{names}</table>{_table(brief)}</div>"


def image(png: bytes, alt: str) -> str:
    """Return an image element that holds the bytes of a PNG file."""
    return f'<img alt="{escape(printable(alt))}" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(brief: Brief) -> str:
    if not brief.table:
        return ""
    columns = list(brief.table[0])
    sides = {name: _NUMBERS if all(_is_number(row.get(name)) for row in brief.table) else _WORDS for name in columns}
    head = "".join(f"<th style='{sides[name]};{_LINE}'>{_said(name)}</th>" for name in columns)
    lines = [
        "".join(f"<td style='{sides[name]}'>{_said(row.get(name))}</td>" for name in columns)
        for row in brief.table[:_MOST]
    ]
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    more = len(brief.table) - _MOST
    left = f"<p>{more} more {escape(brief.counted)}: <code>to_pandas()</code> has all.</p>" if more > 0 else ""
    return f"<table style='{_STYLE}'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{left}"


def _is_number(value: Any) -> bool:
    """Whether a value is a number, an interval, or nothing."""
    return not isinstance(value, str) or re.fullmatch(r"[-+<>–\s\d.,%×]*(e\d+)?( to [-\s\d.,%×]+)?", value) is not None


def _said(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else printable(str(value))
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
