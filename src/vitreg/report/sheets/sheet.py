"""Contact sheets: images in rows, maps in columns, one colour scale, as PNG (the layout of the paper's Figs. 9, 14-16).

It draws numpy arrays; `verbs.maps` chooses the maps. No torch here.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath

from vitreg.report.attempts import Attempts
from vitreg.report.paper import NotebookFigure
from vitreg.report.ranges import drawable, usable
from vitreg.report.words import middle
from vitreg.writing.files import output_folder, replacing

Upsample = Literal["nearest", "bilinear"]

DPI = 150
CELL = 1.3  # inches, the default longer side of a picture
GAP = 0.05
LARGEST = 4.0  # inches; keeps the drawing of large grids below some hundred megabytes
PATCH_PIXELS = 4  # least width of a patch, so that nearest upsampling shows every patch
MARGIN = 0.12
LABEL = 0.26  # row names, to the left
LINE = 0.13  # one line of small text
SMALL, NORMAL, LARGE = 6.5, 7.5, 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A colour scale shared by the maps of a sheet. Values outside `low` to `high` get the colour of that end."""

    low: float
    high: float
    label: str  # the quantity, with its unit
    colours: Literal["viridis", "magma"] = "viridis"
    clipped: Literal["neither", "min", "max", "both"] = "neither"  # ends beyond which values exist


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One picture per row.

    Args:
        title: heading of the column.
        cells: per row a map [rows, cols], colours in 0..1 [rows, cols, 3], an image uint8 [H, W, 3], or None (empty).
        group: heading, such as a model, shared by neighbouring columns of the same group.
    """

    title: str
    cells: Sequence[np.ndarray | None]
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """The contents of one PNG. Without a scale every map runs from its minimum to its maximum."""

    title: str
    rows: Sequence[str]  # names of the images
    columns: Sequence[Column]
    scale: Scale | None = None
    colours: Literal["viridis", "magma"] = "viridis"  # used without a scale
    subtitle: str = ""
    caption: str = ""
    upsample: Upsample = "nearest"
    cell: float = CELL  # inches, the longer side of a picture

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise ValueError("a contact sheet needs at least one row and one column")
        for column in self.columns:
            if len(column.cells) != len(self.rows):
                raise ValueError(f"column '{column.title}' has {len(column.cells)} pictures for {len(self.rows)} rows")


def draw(sheet: Sheet) -> NotebookFigure:
    """Draw a sheet. The figure is not tied to a window or to pyplot's state."""
    cell_w, cell_h = _cell_size(sheet)
    headings = _headings(sheet.columns)
    heading_lines = {
        span: _wrap(text, _width(span, cell_w), NORMAL, bold=True) for span, text in headings.items() if text
    }
    title_lines = {i: _wrap(c.title, cell_w, SMALL) for i, c in enumerate(sheet.columns)}
    columns, rows = len(sheet.columns), len(sheet.rows)
    bar = 0.75 if sheet.scale else 0.0
    width = max(MARGIN + LABEL + columns * (cell_w + GAP) + bar + MARGIN, 3.2)
    inner = width - 2 * MARGIN
    labels = [_label(name, cell_h) for name in sheet.rows]
    shortened = [name for name, lines in zip(sheet.rows, labels, strict=True) if "…" in "".join(lines)]
    in_full = f" Names in full: {', '.join(shortened)}." if shortened else ""
    caption = _wrap(sheet.caption + in_full, inner, SMALL)
    title = _wrap(sheet.title, inner, LARGE, bold=True)
    subtitle = _wrap(sheet.subtitle, inner, NORMAL)
    above = (
        0.08
        + len(title) * 0.2
        + len(subtitle) * LINE * 1.1
        + max(map(len, heading_lines.values()), default=0) * LINE * 1.1
    )
    above += 0.06 + max(map(len, title_lines.values())) * LINE
    below = 0.08 + len(caption) * LINE + (MARGIN if caption else 0)
    height = above + rows * (cell_h + GAP) + below

    figure = NotebookFigure(figsize=(width, height), dpi=DPI, facecolor="white")

    def text(x: float, y: float, string: str, size: float, **more: object) -> None:
        # x, y in inches from the top left. '$' in file names and specs is a dollar sign, not mathematics.
        figure.text(x / width, 1 - y / height, _printable(string), fontsize=size, parse_math=False, **more)  # type: ignore[arg-type]

    text(MARGIN, 0.08, "\n".join(title), LARGE, va="top", fontweight="bold")
    text(MARGIN, 0.1 + len(title) * 0.2, "\n".join(subtitle), NORMAL, va="top")
    left = MARGIN + LABEL
    for (first, last), lines in heading_lines.items():
        start, stop = left + first * (cell_w + GAP), left + last * (cell_w + GAP) + cell_w
        bottom = above - 0.06 - max(map(len, title_lines.values())) * LINE
        text((start + stop) / 2, bottom, "\n".join(lines), NORMAL, ha="center", va="bottom", fontweight="bold")
        if last > first:
            rule = 1 - (bottom + 0.015) / height
            figure.add_artist(Line2D([start / width, stop / width], [rule, rule], color="0.6", linewidth=0.6))
    for i, lines in title_lines.items():
        text(left + i * (cell_w + GAP) + cell_w / 2, above - 0.035, "\n".join(lines), SMALL, ha="center", va="bottom")
    for r, label in enumerate(labels):
        y, middle_of = above + r * (cell_h + GAP), MARGIN + LABEL / 2
        text(middle_of, y + cell_h / 2, "\n".join(label), SMALL, ha="center", va="center", rotation=90, linespacing=1)
        for c, column in enumerate(sheet.columns):
            box = (left + c * (cell_w + GAP), y, cell_w, cell_h)
            _picture(figure, (width, height), box, column.cells[r], sheet)
    if sheet.scale:
        span = min(rows * (cell_h + GAP) - GAP, 4 * CELL)
        x = left + columns * (cell_w + GAP) + 0.06
        _colour_bar(figure, (width, height), (x, above, 0.11, span), sheet.scale)
    text(MARGIN, height - below + 0.08, "\n".join(caption), SMALL, va="top", color="0.25")
    return figure


def save(sheet: Sheet, path: Path) -> Path:
    """Draw a sheet into a PNG file that appears complete or not at all.

    Raises:
        UserError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes, without a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        draw(sheet).savefig(buffer, format="png", metadata={"Title": _printable(sheet.title), "Software": "vitreg"})
    output_folder(path.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path


def save_all(sheets: Iterable[tuple[str, Sheet]], folder: Path, attempts: Attempts) -> None:
    """Draw sheets into files of a folder; a sheet that fails is listed in `attempts`, and the others are drawn.

    Raises:
        UserError: if a file cannot be written.
    """
    for name, sheet in sheets:
        attempts(name, lambda sheet=sheet, name=name: save(sheet, folder / name))


def shared_scale(
    maps: Sequence[np.ndarray],
    label: str,
    *,
    low: float | None = None,
    top: float = 1.0,
    colours: Literal["viridis", "magma"] = "viridis",
) -> Scale:
    """One scale for many maps: from `low` (default: their minimum) to their quantile `top`; NaN and inf are ignored."""
    values = drawable(np.concatenate([np.ravel(m) for m in maps])) if maps else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return Scale(
            low=0.0 if low is None else low, high=1.0 if low is None else low + 1, label=label, colours=colours
        )
    bottom = float(values.min()) if low is None else low
    bottom, high = usable(bottom, max(float(np.quantile(values, top)), bottom))
    bottom = bottom if low is None else low
    under, over = bool(values.min() < bottom), bool(values.max() > high)
    clipped = "both" if under and over else "min" if under else "max" if over else "neither"
    return Scale(low=bottom, high=high, label=label, colours=colours, clipped=clipped)


def _cell_size(sheet: Sheet) -> tuple[float, float]:
    """Width and height of a picture in inches: the aspect of the first one, patches PATCH_PIXELS wide or more."""
    shapes = [c.shape[:2] for column in sheet.columns for c in column.cells if c is not None]
    if not shapes:
        return CELL, CELL
    rows, cols = shapes[0]
    maps = [c.shape[:2] for column in sheet.columns for c in column.cells if c is not None and c.dtype != np.uint8]
    longest = max((max(shape) for shape in maps), default=0)
    pixels = PATCH_PIXELS if sheet.upsample == "nearest" else 1
    side = min(max(sheet.cell, longest * pixels / DPI), LARGEST)
    return (side, side * rows / cols) if cols >= rows else (side * cols / rows, side)


def _headings(columns: Sequence[Column]) -> dict[tuple[int, int], str]:
    """First and last column of each run with the same group."""
    spans: dict[tuple[int, int], str] = {}
    start = 0
    for i, column in enumerate(columns):
        if i + 1 == len(columns) or columns[i + 1].group != column.group:
            spans[start, i] = column.group
            start = i + 1
    return spans


def _width(span: tuple[int, int], cell_w: float) -> float:
    return (span[1] - span[0] + 1) * (cell_w + GAP) - GAP


def _wrap(string: str, inches: float, size: float, *, bold: bool = False) -> list[str]:
    """Wrap a text to lines of at most this width."""
    if not string:
        return []
    return [line for part in string.split("\n") for line in _broken(part, lambda s: _inches(s, size, bold) <= inches)]


def _broken(string: str, fits: Callable[[str], bool]) -> list[str]:
    """Break a text into lines that fit, after a space, '_', '-', '/' or ':' if possible; one letter always fits."""
    lines = [""]
    for piece in re.findall(r"[^ _/:-]*[ _/:-]?", string):
        if fits((lines[-1] + piece).rstrip()):
            lines[-1] += piece
            continue
        if lines[-1]:
            lines.append("")
        for letter in piece:
            if lines[-1] and not fits((lines[-1] + letter).rstrip()):
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()] or [""]


def _label(name: str, inches: float) -> list[str]:
    """Wrap the name of a row to at most two lines, shortened in its middle if it needs more."""
    lines = _wrap(name, inches, SMALL)
    for letters in range(min(len(name), 400) - 1, 7, -1):
        if len(lines) <= 2:
            break
        lines = _wrap(middle(name, letters), inches, SMALL)
    return lines[:2]


@lru_cache(maxsize=4096)
def _inches(string: str, size: float, bold: bool) -> float:
    """Width of a drawn text in inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return TextToPath().get_text_width_height_descent(_printable(string), font, ismath=False)[0] / 72


def _printable(string: str) -> str:
    """Make a text drawable: undecodable bytes of file names and control characters become '?'; newlines stay."""
    clean = string.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c == "\n" or c.isprintable() else "?" for c in clean)


def _picture(
    figure: Figure,
    page: tuple[float, float],
    box: tuple[float, float, float, float],
    cell: np.ndarray | None,
    sheet: Sheet,
) -> None:
    width, height = page
    x, y, w, h = box
    axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
    axes.set_axis_off()
    if cell is None:
        return
    if cell.dtype == np.uint8:
        axes.imshow(cell, aspect="auto", interpolation="antialiased")
    elif cell.ndim == 3:
        axes.imshow(np.clip(np.nan_to_num(cell, nan=1.0), 0, 1), aspect="auto", interpolation=sheet.upsample)
    else:
        values = drawable(cell)
        held = values[np.isfinite(values)]
        own = usable(float(held.min()), float(held.max())) if held.size else (0.0, 1.0)
        low, high = usable(sheet.scale.low, sheet.scale.high) if sheet.scale else own
        colours = sheet.scale.colours if sheet.scale else sheet.colours
        axes.imshow(values, aspect="auto", cmap=colours, norm=Normalize(low, high), interpolation=sheet.upsample)


def _colour_bar(
    figure: Figure, page: tuple[float, float], box: tuple[float, float, float, float], scale: Scale
) -> None:
    width, height = page
    x, y, w, h = box
    axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
    mappable = ScalarMappable(Normalize(*usable(scale.low, scale.high)), cmap=scale.colours)
    bar = figure.colorbar(mappable, cax=axes, extend=scale.clipped)
    bar.ax.tick_params(labelsize=SMALL - 0.5, length=2, width=0.5, pad=1.5)
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    lines = _wrap(scale.label, h, SMALL)
    bar.set_label("\n".join(lines), fontsize=SMALL, parse_math=False, labelpad=2)
