"""The table that a notebook shows for a value, in place of its one-line repr. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from vitreg.writing.files import printable

_LONGEST = 300  # characters of a value


def facts(title: str, rows: Iterable[tuple[str | None, Any]], sentence: str = "") -> str:
    """Lay out a sentence, names and values as an HTML table; long values are cut."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{_said(name)}</th><td>{_said(value)}</td></tr>" for name, value in rows
    )
    return f"<table><caption style='text-align:left'><b>{escape(title)}</b> {escape(printable(sentence))}</caption>{cells}</table>"


def _said(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else printable(str(value))
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
