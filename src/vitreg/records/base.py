"""What all records are: frozen values that serialise to JSON; what results of verbs do; histograms and maps on a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from vitreg.notebook import Brief, Row, Shown, Tabled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Record(Shown, BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    def _brief(self) -> Brief:
        sentence = getattr(getattr(self, "verdict", None), "sentence", "")
        return Brief(title=type(self).__name__, sentence=sentence, facts=self.__repr_args__())


class Result(Tabled, Record):
    """What a verb returns. What it shows is said in `report.shown`, which reads records as every page does."""

    def _brief(self) -> Brief:
        from vitreg.report.shown import brief_of

        return brief_of(self)

    def _rows(self) -> list[Row]:
        from vitreg.report.shown import rows_of

        return rows_of(self)


class DrawnResult(Result):
    """A result with a figure."""

    def plot(self) -> Figure:
        """Return the figure of the result; it belongs to no window and is not of pyplot.

        Raises:
            UserError: if what it shows was not measured.
        """
        return self._figure()

    def _figure(self, kind: str = "") -> Figure:
        """Return the figure of a kind, of results that have several."""
        from vitreg.report.shown import figure_of

        return figure_of(self, kind)


class Histogram(Record):
    """Counts between edges: `len(edges) == len(counts) + 1`."""

    edges: list[float]
    counts: list[float]
    unit: str = ""


class Heatmap(Record):
    """Values on a grid, rows first."""

    rows: int
    cols: int
    values: list[list[float]]
