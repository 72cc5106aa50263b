"""What all records are: frozen values that serialise to JSON, histograms and maps on a grid."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from vitreg.notebook import facts


class Record(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    def _repr_html_(self) -> str:
        sentence = getattr(getattr(self, "verdict", None), "sentence", "")
        return facts(type(self).__name__, self.__repr_args__(), sentence)


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
