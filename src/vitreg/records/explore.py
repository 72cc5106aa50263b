"""What an explorer holds: the schema ``vitreg.explore/1`` of ``explore.json``, which lies beside the page."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vitreg.records.base import Record, Result
from vitreg.records.scan import Skipped


class ShownModel(Record):
    """A model of the page."""

    name: str = Field(description="as the page heads it")
    spec: str
    registers: int = Field(description="register tokens")
    base: int | None = Field(description="the number of the model that it repairs; null for a model as it is")


class ShownDocument(Record):
    """One photo by one model."""

    name: str = Field(description="of its parts in data/, such as p0m1")
    photo: int
    model: int
    found: bool = Field(description="whether a block shows a second group of patch norms")
    sentence: str


class ExploreResult(Result):
    """All photos and models of one page."""

    schema_: Literal["vitreg.explore/1"] = Field(default="vitreg.explore/1", alias="schema")
    photos: list[str]
    models: list[ShownModel]
    documents: list[ShownDocument]
    skipped: list[Skipped] = Field(default=[])
    there: int | None = Field(description="photos that were named; null where their number is unknown")
    chosen: str = Field(description="how the models were chosen, if they were not named; else empty")
    caution: str = Field(description="what one photo cannot show")
    vitreg: str = Field(description="version")

    def __repr_args__(self) -> list[tuple[str, Any]]:
        models = [each.name for each in self.models]
        return [("photos", self.photos), ("models", models), ("skipped", [each.name for each in self.skipped])]
