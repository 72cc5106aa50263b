"""Common to all pages: the template engine, our style and script, and the content security policy that allows only these."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from vitreg.report import words
from vitreg.writing.files import replacing

TEMPLATES = Path(__file__).with_name("templates")
FULL, HALF, PHONE = 1040, 500, 340  # widths in pixels that charts are drawn for


def render(template: str, *, client: tuple[str, str] | None = None, asks: bool = False, **values: object) -> str:
    """Fill a template. Values are escaped; `style`, `script` and `policy` are added.

    Args:
        client: another style and script than those of the reports. That script may load files that lie beside the page.
        asks: whether the script may ask the server that sent the page.
    """
    style, script = (_asset("report.css"), _asset("report.js")) if client is None else map(Markup, client)
    policy = _policy(style, script, loads=client is not None, asks=asks)
    return _environment().get_template(template).render(style=style, script=script, policy=policy, asks=asks, **values)


@functools.cache
def _environment() -> Environment:
    """The template engine; it compiles a template once, which takes longer than filling it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "percent": words.percent,
        "times": words.times,
        "hundredths": words.hundredths,
        "whole": lambda value: words.short(value) if value == round(value) else words.number(value),
        "spaced": words.spaced,
        "headline": lambda text: words.headline(words.spaced(text)),
        "code": _code,
        "grouped": lambda value: f"{value:,}",
        "pretty": lambda value: json.dumps(value, indent=2, default=str, ensure_ascii=False),
    }
    environment.globals["count"] = words.count
    return environment


def write(path: Path, page: str) -> Path:
    """Write a page as a whole or not at all. Raises UserError if the folder cannot be written."""
    with replacing(path) as draft:
        # Undecodable bytes of a file name are lone surrogates, which UTF-8 cannot encode.
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def two_widths(wide: Markup | None, narrow: Markup | None) -> Markup | None:
    """Put a chart for a desktop and one for a phone into the page; the style sheet shows one of them."""
    if wide is None or narrow is None:
        return None
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def _code(text: str) -> Markup:
    """Escape a text and mark up words between backticks as code."""
    text = words.spaced(str(text))
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is a character, not a mark
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def _asset(name: str) -> Markup:
    """One of our own files, put into the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _policy(style: str, script: str, *, loads: bool, asks: bool) -> str:
    """A content security policy: our style and our script by their hashes, pictures inside the page, nothing else.

    Args:
        loads: whether our script may load further scripts.
        asks: whether it may ask the server of the page.
    """
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    more = " 'strict-dynamic'" if loads else ""
    asked = "connect-src 'self'; " if asks else ""
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'{more}; "
        f"{asked}base-uri 'none'; form-action 'none'"
    )
