"""Results of a reproduction: what was measured for each figure and table of the paper, and what became of its claims."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vitreg.records.base import DrawnResult, Record
from vitreg.records.scan import Provenance, Undrawn

PAPER = "Darcet et al., ICLR 2024"
Outcome = Literal["held", "not held", "not testable here"]


class Claim(Record):
    """One claim on one subject."""

    id: str = Field(description="of the claim, the same for every subject")
    subject: str = Field(description="a model, or what else was looked at")
    says: str = Field(description="what the paper says")
    criterion: str = Field(
        description="what must be true here for the claim to hold; written before any outcome on a trained model was seen"
    )
    outcome: Outcome
    reason: str = Field(description="the numbers behind the outcome, or what stands in the way")
    paper: str = Field(default="", description="the published number")
    value: float | None = None
    low: float | None = Field(default=None, description="95 % interval of the number that decided")
    high: float | None = None
    above: float | None = Field(default=None, description="held only if the whole interval lies above this")
    below: float | None = Field(default=None, description="held only if the whole interval lies below this")
    exact: bool = Field(default=False, description="the number has no interval because nothing was sampled")
    control: bool = Field(
        default=False, description="not the claim itself: a case in which it must fail, or it could not fail at all"
    )
    by: str = Field(default=PAPER, description="who made the claim")


class TrainedAs(Record):
    """How a model was trained that the run trained itself."""

    recipe: str = Field(description="dinov2, deit3 or clip")
    registers: int
    size: str = Field(default="", description="where it is not the scale's own")
    decorrelation: float = Field(default=0.0, description="weight of the penalty on similar registers")
    slots: bool = Field(default=False, description="whether the registers compete for keys")
    seed: int = 0


class Measured(Record):
    """What was measured on one subject."""

    subject: str
    note: str = Field(default="", description="such as: PLANTED, a model whose artifacts were written into its weights")
    numbers: dict[str, float | None] = Field(default_factory=dict)
    series: dict[str, list[float]] = Field(default_factory=dict)
    jobs: dict[str, str] = Field(default_factory=dict, description="keys of the jobs behind the numbers, by verb")
    failed: str = Field(default="", description="why there are no numbers; empty where there are some")
    refused: dict[str, str] = Field(default_factory=dict, description="why a number is not among them, by its name")
    images: int | None = Field(
        default=None, description="how many were looked at; null where none, or in older records"
    )
    trained: TrainedAs | None = Field(default=None, description="of a model that this run trained")


class ExperimentRecord(Record):
    """One figure or table of the paper."""

    schema_: Literal["vitreg.experiment/1"] = Field(default="vitreg.experiment/1", alias="schema")
    id: str
    label: str = Field(description="as the paper names it: Fig. 3")
    title: str
    published: dict[str, Any] = Field(description="the paper's numbers")
    protocol: str = Field(description="how the paper measured")
    ours: str = Field(description="how it was measured here")
    measured: list[Measured]
    claims: list[Claim]
    data: dict[str, str] = Field(
        default_factory=dict, description="what was read, by the option that names it: images, classes, boxes and so on"
    )
    undrawn: list[Undrawn] = Field(default_factory=list, description="figures that could not be drawn")


class Reproduction(DrawnResult):
    """All experiments of a run: ``result.json`` of `vitreg reproduce`."""

    schema_: Literal["vitreg.reproduce/1"] = Field(default="vitreg.reproduce/1", alias="schema")
    scale: str
    images: str = Field(description="what was looked at")
    experiments: list[ExperimentRecord]
    provenance: Provenance
    settings: dict[str, Any] = Field(
        default_factory=dict, description="what another run must share to add to this record; empty in older ones"
    )
    earlier: list[Provenance] = Field(default_factory=list, description="of runs that the last one added to")
    undrawn: list[Undrawn] = Field(default_factory=list)

    def __repr_args__(self) -> list[tuple[str, Any]]:
        outcomes = [claim.outcome for each in self.experiments for claim in each.claims]
        return [
            ("experiments", len(self.experiments)),
            *((name, outcomes.count(name)) for name in sorted(set(outcomes))),
        ]
