"""What the lab found: the runs of an experiment, and what became of each."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from vitreg.records.base import Record
from vitreg.records.scan import Undrawn

Outcome = Literal["none", "artifacts", "dissolved"]


class Sink(Record):
    """What one kind of tokens takes at the last look, in the block that gives it most."""

    block: int
    attention: float = Field(description="share of an average patch's attention")
    values: float | None = Field(description="norm of their values / mean norm of all values of the head")


class BornRun(Record):
    """One run."""

    name: str
    registers: int
    seed: int
    failed: str = Field(default="", description="why there is no result; empty where there is one")
    steps: int = 0
    seconds: float = Field(default=0.0, description="since it was last taken up")
    outcome: Outcome = Field(default="none", description="dissolved: artifacts at some look, none at the last")
    solved: int | None = Field(default=None, description="first evaluation with the error below 0.01")
    error: float | None = Field(default=None, description="of what is asked of other tiles, at the last evaluation")
    onset: int | None = Field(default=None, description="first look with a ratio above 5")
    peak_ratio: float = Field(
        default=0.0, description="largest norm of an image / its median, median over images, any block"
    )
    peak_step: int = 0
    last_ratio: float = 0.0
    background: Sink | None = None
    registers_hold: Sink | None = Field(default=None, description="null without registers")


class Lab(Record):
    """The whole of ``result.json``."""

    schema_: Literal["vitreg.lab/1"] = Field(default="vitreg.lab/1", alias="schema")
    experiment: str
    runs: list[BornRun]
    undrawn: list[Undrawn] = Field(default=[], description="charts and figures that could not be drawn")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
