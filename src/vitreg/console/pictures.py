"""Pictures in the terminal, where it can show them: kitty's protocol and sixels, by the package textual-image."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def shown(path: Path) -> bool:
    """Show a picture if standard output is a terminal that says it can. Returns whether it was shown.

    The terminal is asked, and answers on standard input, so that has to be the terminal, too.
    """
    kind = _kind() if _is_terminal() else None
    if kind is None:
        return False
    try:
        from rich.console import Console

        Console().print(kind(path, width="auto", height="auto"))
    except Exception:  # whatever a terminal does, the picture is on disk
        return False
    return True


def _is_terminal() -> bool:
    """Whether standard output and input are a terminal that knows escape sequences."""
    streams = (sys.__stdout__, sys.__stdin__)
    return os.environ.get("TERM", "") not in ("", "dumb") and all(
        each is not None and each.isatty() for each in streams
    )


def _kind() -> Any:
    """Return what prints a picture in this terminal; None if it cannot show any, or the package is not installed."""
    try:
        from textual_image.renderable import Image, SixelImage, TGPImage
    except Exception:  # not installed, or the terminal gave an answer that it does not understand
        return None
    return Image if Image in (SixelImage, TGPImage) else None
