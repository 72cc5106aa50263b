"""The style of figures for papers and notebooks: colours, axes and files. Each is a matplotlib ``Figure`` without pyplot, so
there is no global state and no window, and a notebook shows the returned figure (`NotebookFigure`).
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from vitreg.quantities import short
from vitreg.report.words import PERCENT, middle
from vitreg.writing.files import replacing

DPI = 160
LETTERS = 18  # of small text that fit into an inch
SHARES = FuncFormatter(lambda share, _: f"{short(100 * share)}{PERCENT}")
PATCH, OUTLIER, CLS, REGISTER, INK = "#2a6fb0", "#c4451c", "#8a4fa3", "#0b7f63", "#17202b"


class NotMeasuredError(ValueError):
    """The record lacks the data of a figure."""


class NotebookFigure(Figure):
    """A figure that a notebook shows. Without pyplot, which this project leaves alone, it would show the name of the class."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a file name in another script
            self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def framed(figure: Figure, words: str) -> None:
    """Write a line of small text below a figure, broken to its width; `save_figure` with the same words keeps it in the picture."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(words, max(30, int(width * LETTERS)))
    figure.text(0.01, -0.05 / height, "\n".join(lines), va="top", fontsize=6, color="0.35", parse_math=False)


def save_figure(figure: Figure, path: Path, words: str = "") -> None:
    """Write a figure as a whole or not at all, in the format of the path's suffix: png, svg or pdf.

    The same figure gives the same bytes: neither date nor random names are written.

    Args:
        words: those of `framed`; also the title of an SVG or PDF.

    Raises:
        UserError: if the folder cannot be written.
    """
    with replacing(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a file name in another script
        kind = path.suffix.removeprefix(".")
        title = {"Title": words} if words else {}
        about = {"svg": {"Date": None, **title}, "pdf": {"CreationDate": None, **title}}
        whole = {"bbox_inches": "tight", "pad_inches": 0.05} if words else {}
        with rc_context({"svg.hashsalt": path.name}):
            figure.savefig(draft, format=kind, dpi=DPI, metadata=about.get(kind), **whole)


def axes_of(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure (size in inches) with one pair of axes, always on the Agg backend."""
    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def mark_blocks(axes: Axes, indices: Sequence[int]) -> None:
    """Number the blocks along the x axis, whole numbers only."""
    axes.set_xlim(min(indices) - 0.5, max(indices) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("block")


def plain_log(axis: Axis) -> None:
    """Write 300, not 3 x 10^2, and label 2 and 5 between the decades of a short axis."""
    axis.set_major_locator(LogLocator(numticks=6))  # by itself a low axis over 200 decades asks for ticks at 10^316
    low, high = sorted(axis.get_view_interval())
    between = (2, 5) if high < 1000 * max(low, 1e-12) else ()

    def name(value: float, _: int) -> str:
        return short(value)

    def sometimes(value: float, place: int) -> str:
        digit = round(value / 10 ** math.floor(math.log10(value) + 1e-9)) if value > 0 else 0
        return name(value, place) if digit in between else ""

    axis.set_major_formatter(FuncFormatter(name))
    axis.set_minor_formatter(FuncFormatter(sometimes))
    axis.set_tick_params(which="minor", labelsize=7)


def writable(name: str) -> str:
    """Make a file name drawable: undecodable bytes as escapes, line breaks as spaces, long names cut."""
    text = name.encode("utf-8", errors="backslashreplace").decode().replace("\n", " ")
    return middle(text, 26)
