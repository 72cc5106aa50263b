"""The smaller charts of the page of a scan, two in a row, and what each says of itself.

A chart is a module of this folder: its title and legend, its caption, the chart of the page (SVG) and, unless `figure` is
None, the figure for a paper (PNG). Listing it in `ROWS` puts both into the page and the folder of figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import ScanResult
from vitreg.report.scan.charts import attention, head_sinks, per_image, positions, redundancy, values
from vitreg.report.scan.charts.about import About


class Chart(Protocol):
    """What a module of a chart holds."""

    ABOUT: About

    @property
    def figure(self) -> Callable[[ScanResult], Figure] | None:
        """Draws the figure for a paper; raises NotMeasuredError for a record without its data."""
        ...

    @property
    def __name__(self) -> str: ...

    @staticmethod
    def svg(result: ScanResult, width: float) -> Markup | None:
        """Draw the chart of the page; None for a record without its data."""
        ...

    @staticmethod
    def caption(result: ScanResult) -> str:
        """Say how the chart is read."""
        ...

    @staticmethod
    def missing(result: ScanResult) -> str:
        """Say why there is no chart."""
        ...


ROWS: tuple[tuple[Chart, ...], ...] = ((positions, per_image), (redundancy, attention), (head_sinks, values))
CHARTS = tuple(chart for row in ROWS for chart in row)


def name_of(chart: Chart) -> str:
    """Return the name of a chart: that of its module."""
    return chart.__name__.rpartition(".")[2]
