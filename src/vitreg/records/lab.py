"""What the lab found: the runs of an experiment and what became of each; of a design also cells, effects and answers."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from vitreg.records.base import DrawnResult, Record
from vitreg.records.moments import TokenKind
from vitreg.records.scan import Undrawn

Outcome = Literal["none", "artifacts", "dissolved", "not solved", "diverged"]
OUTCOMES: tuple[Outcome, ...] = ("artifacts", "dissolved", "none", "not solved", "diverged")
Measure = Literal["ratio", "solved", "error", "last"]
MEASURES: tuple[Measure, ...] = ("ratio", "solved", "error", "last")


class Sink(Record):
    """What one kind of tokens takes at the last look, in the block that gives it most."""

    block: int
    attention: float = Field(description="share of an average patch's attention")
    values: float | None = Field(description="norm of their values / mean norm of all values of the head")
    norm: float | None = Field(
        default=None, description="their norm after the block / median norm of the image's patches; null in older runs"
    )


class Shared(Record):
    """How registers share their work at the last look, in the block that gives them most."""

    each: list[float | None] = Field(description="attention that each takes, mean over images and heads")
    largest: float | None = Field(description="share that the largest of these has of their sum")
    effective: float | None = Field(
        description="exp of the entropy of these shares: R if they are equal, 1 if one has all"
    )
    in_a_head: float | None = Field(description="the same within a head of an image, mean over both")


class Looked(Record):
    """The most attended token of each image at the last look, in the block in which it takes most."""

    block: int
    attention: float | None = Field(description="share of an average patch's attention, mean over images")
    values: float | None = Field(description="norm of its value / mean norm of all values of the head")
    norm: float | None = Field(description="its norm after the block / median norm of the image's patches")
    kinds: dict[TokenKind, float] = Field(description="in which share of the images it is of each kind")


class BornRun(Record):
    """One run."""

    name: str
    registers: int
    seed: int
    failed: str = Field(default="", description="why there is no result; empty where there is one")
    steps: int = 0
    seconds: float = Field(default=0.0, description="since it was last taken up; of the core in a design")
    outcome: Outcome = Field(
        default="none",
        description="dissolved: artifacts at some look, none at the last; none: the task is solved and no look shows any; not "
        "solved: no look shows any so far; diverged: a loss or gradient that is not finite",
    )
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
    registers_share: Shared | None = Field(default=None, description="null without registers, and in older runs")
    most: Looked | None = Field(default=None, description="of all tokens; null in older runs")
    foreground: Looked | None = Field(
        default=None, description="of the tiles that are not background; null in older runs"
    )
    sinks: float | None = Field(
        default=None,
        description="share of heads in which one token takes at least 0.3, of the block with most; null in older runs",
    )


class Course(Record):
    """The course of a run, look by look and evaluation by evaluation."""

    looks: list[int] = Field(description="steps at which the norms were looked at")
    ratio: list[float] = Field(description="largest norm of an image / its median, any block")
    background: list[float | None] = Field(description="attention into the background, in the block that gives it most")
    registers: list[float | None] = Field(description="the same, into the registers")
    values: list[float | None] = Field(description="norm of the background's values / mean of all, in the same block")
    evaluated: list[int] = Field(description="steps of the evaluations")
    error: list[float | None] = Field(description="of what is asked of other tiles")
    foreground: list[float | None] = Field(
        default=[], description="attention into the most attended foreground tile, in the block that gives it most"
    )
    effective: list[float | None] = Field(
        default=[], description="effective number of registers, in the block that gives them most"
    )


class DesignRun(BornRun):
    """One run of a design."""

    cell: int = Field(description="index in `cells`")
    folder: str = Field(default="", description="of the run, within that of the result; empty in older records")
    diverged: str = Field(default="", description="where and how; empty where it did not")
    after: int | None = Field(default=None, description="cell of the run that it goes on from; null if it began anew")
    began: float | None = Field(
        default=None, description="`last_ratio` of that run; null if it began anew, or that has none"
    )
    course: Course | None = None


class Share(Record):
    """A share of runs with its 95 % interval (Wilson)."""

    hits: int
    of: int
    low: float
    high: float


class LabCell(Record):
    """What is trained alike but for the seed."""

    name: str
    changes: dict[str, str] = Field(description="what differs from the base, by whole names of settings")
    seeds: list[int] = Field(description="those that the design asks for")
    outcomes: dict[Outcome, int] = Field(description="how many runs, of those that ended")
    failed: int = 0
    after: int | None = Field(
        default=None, description="cell from whose ends these runs go on; null if they begin anew"
    )
    artifacts: Share | None = Field(
        description="artifacts at any look, of the runs past their onset; of runs that go on, at the last look, of those that "
        "began with some; null without such runs"
    )
    ratio: float | None = Field(description="geometric mean of the largest ratios of these runs")
    last: float | None = Field(default=None, description="geometric mean of their ratios at the last look")
    solved: float | None = Field(description="mean step of the runs that solved the task")
    error: float | None = Field(description="geometric mean of their last errors")
    background: float | None = Field(description="their mean attention into the background at the last look")
    registers: float | None = Field(description="the same, into the registers")
    values: float | None = Field(description="their mean norm of the background's values / mean of all")
    foreground: float | None = Field(
        default=None, description="their mean attention into the most attended foreground tile at the last look"
    )
    registers_values: float | None = Field(
        default=None, description="their mean norm of the registers' values / mean of all"
    )
    registers_norm: float | None = Field(
        default=None, description="mean norm of the registers / median norm of the patches"
    )
    largest: float | None = Field(default=None, description="mean share of the largest register of what registers take")
    effective: float | None = Field(default=None, description="mean effective number of registers")
    least: float | None = Field(default=None, description="least error that is possible if no tile looks at another")


class Estimate(Record):
    """By how much a change changes one measure."""

    value: float = Field(description="a factor for ratio, error and last, steps for solved")
    low: float | None
    high: float | None
    p: float | None = Field(description="Welch's, of no difference")
    adjusted: float | None = Field(
        default=None, description="the same after Holm's correction over all rows of this measure"
    )
    exact: float | None = Field(
        default=None, description="p of the exact permutation test, where two cells are compared"
    )
    decided: bool = Field(default=False, description="adjusted below 0.05, and exact too where there is one")
    runs: tuple[int, int] = Field(description="how many were compared with how many of the base's level")
    left_out: int = Field(default=0, description="runs of these cells that had not come to their onset, or failed")
    censored: int = Field(
        default=0,
        description="runs that had not solved the task: they count with their last step, or with their norms so far",
    )


class Effect(Record):
    """A row of the table: a level of a factor against the base's, at some levels of the others, or on average over these.

    An interaction is the difference of two such differences, with a level of another factor and with its first.
    """

    block: str
    factor: str
    level: str
    against: str
    where: str = Field(description="levels of the other factors; empty if there are none")
    average: bool = False
    interaction: bool = False
    after: int | None = Field(default=None, description="cell from whose ends these runs go on")
    cells: tuple[list[int], list[int]] = Field(
        description="cells of the level, and those that they are compared with, in order"
    )
    measures: dict[Measure, Estimate]


class Answer(Record):
    """A question, the sentence that answers it, and the numbers behind it."""

    question: str
    sentence: str
    decided: bool
    numbers: dict[str, float | None] = Field(default={}, description="those of the sentence")
    cells: list[int] = Field(default=[], description="what it stands on")


class LabReport(DrawnResult):
    """The whole of ``result.json`` of `vitreg lab`."""

    schema_: Literal["vitreg.lab-report/1"] = Field(default="vitreg.lab-report/1", alias="schema")
    title: str
    sentence: str
    steps: int = Field(description="the most a run takes")
    asked: int = Field(description="runs of the design")
    ended: int = Field(description="of which ended, with a row")
    hours: float = Field(description="of a core, of the runs that ended, since each was last taken up")
    cells: list[LabCell]
    effects: list[Effect]
    answers: list[Answer]
    runs: list[DesignRun]
    births: str = Field(
        default="", description="page of the curves of the first runs, in the folder; empty if none was drawn"
    )
    undrawn: list[Undrawn] = Field(default=[], description="charts and figures that could not be drawn")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
