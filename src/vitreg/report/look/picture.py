"""One photo by several models as one picture: the photo, norms, attention of CLS, principal components, registers.

Models stand below one another; their norms, as multiples of the median, share one colour scale.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from vitreg.quantities import number, short
from vitreg.records import Example
from vitreg.report.look import panels
from vitreg.report.look.palette import ACCENT, INK, MAGMA, MUTED, PAPER, RULE, coloured
from vitreg.report.look.words import font, shortened, wrapped

PANEL, GAP, MARGIN = 336, 20, 40  # pixels; PANEL is the longer side of a map
COLUMNS = 5
WIDEST = 1.5  # times the median: even maps are drawn on a scale from 1/1.5 to 1.5, so that they look even
APART = 36  # pixels between the numbers under the scale
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one model shows.

    Args:
        name: of the model.
        sentence: what was found.
        example: its maps.
        photo: the area its patches cover, at any resolution.
        median: of the norms, by which the map of norms is divided.
        missing: why "cls" or "registers" have no map.
    """

    name: str
    sentence: str
    example: Example
    photo: UInt8[np.ndarray, "H W 3"]
    median: float
    missing: dict[str, str]

    @property
    def ratios(self) -> np.ndarray:
        """Norms over their median."""
        return self.example.norms / (self.median or 1.0)

    @property
    def size(self) -> panels.Size:
        """Width and height of its panels."""
        height, width = self.photo.shape[:2]
        share = PANEL / max(height, width)
        return max(1, round(width * share)), max(1, round(height * share))


def draw_look(name: str, rows: Sequence[Row], note: str) -> Image.Image:
    """Draw a photo as the models see it.

    Args:
        name: of the photo.
        note: a sentence under it.
    """
    wide = max(row.size[0] for row in rows)
    width = 2 * MARGIN + COLUMNS * wide + (COLUMNS - 1) * GAP
    sentence, inner = font(17), width - 2 * MARGIN
    lines = [wrapped(row.sentence, inner, sentence) for row in rows]
    tops, y = [], MARGIN + 60
    for row, said in zip(rows, lines, strict=True):
        tops.append(y)
        y += 38 + 25 * len(said) + 34 + row.size[1] + 44
    page = Image.new("RGB", (width, y + 66), PAPER)
    draw = ImageDraw.Draw(page)
    title = font(27, bold=True)
    draw.text((MARGIN, MARGIN - 8), shortened(name, inner // 2, title), INK, title)
    draw.text((width - MARGIN, MARGIN + 2), shortened(note, inner // 2, font(15)), MUTED, font(15), anchor="ra")
    scale = scale_of(rows)
    for row, said, top in zip(rows, lines, tops, strict=True):
        draw.line((MARGIN, top - 16, width - MARGIN, top - 16), RULE, 1)
        draw.text((MARGIN, top), shortened(row.name, inner, font(19, bold=True)), INK, font(19, bold=True))
        for place, line in enumerate(said):
            draw.text((MARGIN, top + 30 + 25 * place), line, INK, sentence)
        above = top + 38 + 25 * len(said)
        for place, (caption, panel) in enumerate(_panels(row, scale)):
            left = MARGIN + place * (wide + GAP)
            draw.text((left, above + 8), shortened(caption, wide, font(14)), MUTED, font(14))
            page.paste(panel, (left, above + 34))
    _legend(page, draw, scale, y, any(row.example.outliers.any() for row in rows))
    return page


def as_png(page: Image.Image, title: str) -> bytes:
    """Return the bytes of a PNG file."""
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt("Title", title)
    info.add_text("Software", "vitreg")
    page.save(buffer, "png", pnginfo=info, compress_level=5)
    return buffer.getvalue()


def scale_of(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the ends of the one scale of norms over their median, which holds those of all models."""
    found = np.concatenate([row.ratios.ravel() for row in rows]).astype(np.float64)
    found = found[np.isfinite(found) & (found > 0)]
    if not found.size:
        return 1 / WIDEST, WIDEST
    return min(float(found.min()), 1 / WIDEST), max(float(found.max()), WIDEST)


def _panels(row: Row, scale: tuple[float, float]) -> list[tuple[str, Image.Image]]:
    """The five panels with their captions."""
    example, size = row.example, row.size
    registers = len(example.register_attention)
    seen = f"in block {example.attention_layer}"
    photo = panels.outline(panels.picture(row.photo, size), example.outliers)
    norms = panels.outline(panels.norms(row.ratios, scale, size), example.outliers)
    cls = (
        panels.nothing(row.missing.get("cls", "no attention of CLS"), size)
        if example.cls_attention is None
        else panels.attention(example.cls_attention, size)
    )
    of_registers = (
        panels.several(list(example.register_attention), size)
        if registers
        else panels.nothing(row.missing.get("registers", "no registers"), size)
    )
    counted = "register" if registers == 1 else f"{registers} registers"
    return [
        ("photo, as the model sees it", photo),
        (f"norms after block {example.layer}, median {number(row.median)}", norms),
        ("attention of CLS" if example.cls_attention is None else f"attention of CLS {seen}", cls),
        ("principal components, last block", panels.components(example.pca, size)),
        (f"attention of {counted} {seen}" if registers else "registers", of_registers),
    ]


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, scale: tuple[float, float], top: int, marked: bool) -> None:
    """Draw the colour scale of the norms, and what the outlines are."""
    left, bar = MARGIN, (PANEL, 14)
    draw.line((MARGIN, top - 18, page.width - MARGIN, top - 18), RULE, 1)
    ramp = np.broadcast_to(np.linspace(0, 1, bar[0]), (bar[1], bar[0]))
    page.paste(Image.fromarray(coloured(ramp, MAGMA)), (left, top))
    low, high = math.log(scale[0]), math.log(scale[1])
    taken: list[float] = []
    for tick in (*scale, 1, *TICKS):
        x = left + (math.log(tick) - low) / (high - low) * (bar[0] - 1)
        if not scale[0] <= tick <= scale[1] or any(abs(x - other) < APART for other in taken):
            continue
        taken.append(x)
        draw.line((x, top + bar[1], x, top + bar[1] + 5), MUTED, 1)
        draw.text((x, top + bar[1] + 7), short(tick, 2), MUTED, font(13), anchor="ma")
    words = "norm of a patch token, in medians of its map; one scale for all models. Attention: each map from 0 to its maximum."
    x = left + bar[0] + GAP
    draw.text((x, top - 2), words, MUTED, font(14))
    if marked:
        draw.rectangle((x, top + 22, x + 14, top + 36), outline=(0, 0, 0), width=4)
        draw.rectangle((x + 1, top + 23, x + 13, top + 35), outline=ACCENT, width=2)
        draw.text((x + 24, top + 20), "outlined: the patches of the second group", MUTED, font(14))
