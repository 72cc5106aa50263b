"""Text in a picture: fonts, widths, lines."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size: int, *, bold: bool = False) -> Font:
    """Return DejaVu Sans, which matplotlib ships (it is not imported), or Pillow's own font."""
    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def wrapped(text: str, width: int, face: Font, most: int = 3) -> list[str]:
    """Break a text at spaces into at most `most` lines; what does not fit ends with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [shortened(line, width, face) for line in lines]


def shortened(text: str, width: int, face: Font) -> str:
    """Cut a text in its middle until it fits into `width` pixels."""
    if face.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 2, -1):
        tried = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if face.getlength(tried) <= width:
            return tried
    return "…"
