"""The card of a shipped model: what it is, where it comes from, and how well it does what it was trained for."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from vitreg.records.base import Record
from vitreg.records.lab import Outcome
from vitreg.records.moments import VerdictKind


class TaskError(Record):
    """How well a model does its task; for a model without classes this takes the place of accuracy."""

    asked: float = Field(description="mean squared error of the numbers that marked tiles are asked of other tiles")
    least_alone: float = Field(description="the least that is possible if no tile looks at another")
    data: str
    images: int = Field(description="of the validation side")


class OwnScan(Record):
    """What a scan of the model says."""

    command: str
    kind: VerdictKind
    sentence: str
    reason: str


class SeedOutcome(Record):
    """What became of one seed of the experiment that the model is taken from."""

    seed: int
    without: Outcome | Literal["", "failed"] = Field(
        description="of the run without registers; empty if it has not ended"
    )
    with_registers: Outcome | Literal["", "failed"] = Field(description="of the run with registers")
    ratio: float | None = Field(description="largest norm / median at the end of the run without registers")


class ModelCard(Record):
    """The card of one shipped model."""

    schema_: Literal["vitreg.card/1"] = Field(default="vitreg.card/1", alias="schema")
    spec: str
    sentence: str = Field(description="what the model is")
    made_for: str = Field(description="the images it was trained to read")
    registers: int
    data: str = Field(description="what it was trained on")
    recipe: str
    preset: str
    seed: int
    steps: int
    command: str = Field(description="trains the model again")
    experiment: str = Field(description="the command whose run it is")
    error: TaskError
    scan: OwnScan
    rule: str = Field(description="how the seed was chosen, fixed before the runs ended")
    seeds: list[SeedOutcome]
    vitreg: str = Field(description="version that trained it")
    made: str = Field(description="date of the run, UTC")
    licence: str
    in_timm: str = Field(description="Python that loads the weights into timm's VisionTransformer")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
