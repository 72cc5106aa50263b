"""Results of an evaluation: plain values, the schema ``vitreg.eval/1`` of ``result.json``.

Every number comes with its protocol and with a control that must be worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr

from vitreg.records import DrawnResult, Finding, ImagesRecord, Provenance, Record, Result, Skipped, Undrawn

Cell = str | float | int | None


class Table(Result):
    """Rows of values under named columns; the first column says what the row is."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


class EvalModel(Record):
    """What was evaluated."""

    spec: str
    library: str
    blocks: int
    width: int
    registers: int
    patch: tuple[int, int] = Field(description="height, width in pixels")
    weights: str
    weights_sha256: str
    notes: list[str] = Field(default_factory=list)


class EvalData(Record):
    """The data of an evaluation: samples per side, and those that could not be read."""

    name: str
    counts: dict[str, int] = Field(description="samples of each side, such as train and test; readable ones")
    classes: int | None = None
    skipped: list[Skipped] = Field(default_factory=list)
    listing: str = Field(
        default="", description="hash of names, sizes and times of all files of the data; empty in earlier records"
    )


class EvalResult(DrawnResult):
    """One task on one model: ``result.json`` of `vitreg eval`."""

    schema_: Literal["vitreg.eval/1"] = Field(default="vitreg.eval/1", alias="schema")
    task: str
    title: str = Field(default="", description="of the task on a page; empty in earlier records")
    measured: str = Field(default="", description="the headline as a sentence with {value}; empty in earlier records")
    model: EvalModel
    data: EvalData
    headline: str = Field(description="name of the metric that sums the task up")
    metrics: dict[str, float]
    controls: dict[str, float] = Field(description="the headline metric of what must be worse, by name")
    intervals: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="95 % interval of metrics that are shares of right answers (Wilson) and of causes (bootstrap over "
        "images), by name",
    )
    units: dict[str, str] = Field(default_factory=dict, description="of every metric, empty for a plain number")
    larger_is_better: bool = True
    answers_either_way: bool = Field(
        default=False, description="a number level with its control is an answer too, such as: the sinks are not used"
    )
    protocol: dict[str, Any] = Field(description="every setting that makes the number")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="as they were asked for, of the task and of the images; empty in earlier records",
    )
    tables: list[Table] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    undrawn: list[Undrawn] = Field(default_factory=list, description="figures that could not be drawn")
    provenance: Provenance

    def __repr_args__(self) -> list[tuple[str, Any]]:
        words = [("task", self.task), ("model", self.model.spec), ("data", self.data.name)]
        return [*words, (self.headline, self.metrics.get(self.headline)), ("controls", self.controls)]

    @property
    def beats_controls(self) -> bool:
        """Whether the headline is better than every control."""
        value = self.metrics[self.headline]
        return all((value > c) if self.larger_is_better else (value < c) for c in self.controls.values())


class EvalPair(Record):
    """One task on one model, as a row of a table; the full record is in its folder."""

    model: str
    task: str
    title: str = Field(default="", description="of the task on a page; empty in earlier records")
    folder: str = Field(description="beside the table")
    failed: str = Field(default="", description="why there is no number; empty where there is one")
    kept: bool = Field(default=False, description="whether the record was there already")
    metric: str = ""
    value: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    larger_is_better: bool = True
    controls: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    registers: int | None = None
    weights_sha256: str = ""
    precision: str = ""

    @property
    def control(self) -> tuple[str, float] | None:
        """The best control: the one that is hardest to beat."""
        if not self.controls:
            return None
        name = (max if self.larger_is_better else min)(self.controls, key=lambda each: self.controls[each])
        return name, self.controls[name]

    @property
    def beats_controls(self) -> bool | None:
        """Whether the number is better than every control; None without a number or controls."""
        if self.value is None or self.control is None:
            return None
        return self.value > self.control[1] if self.larger_is_better else self.value < self.control[1]


class Evaluations(DrawnResult):
    """Several models and tasks on one set of data: ``result.json`` beside the folders of the pairs."""

    schema_: Literal["vitreg.evals/1"] = Field(default="vitreg.evals/1", alias="schema")
    data: str
    pairs: list[EvalPair] = Field(description="in the order of the models, then of the tasks")
    undrawn: list[Undrawn] = Field(default_factory=list, description="figures that could not be drawn")

    def __repr_args__(self) -> list[tuple[str, Any]]:
        return [("data", self.data), *((f"{each.task} of {each.model}", each.value) for each in self.pairs)]


class DoctorResult(Result):
    """Findings about a model without images, as `vitreg doctor --json` prints them."""

    schema_: Literal["vitreg.doctor/1"] = Field(default="vitreg.doctor/1", alias="schema")
    vitreg: str = Field(description="version")
    model: EvalModel
    problem: bool = Field(description="whether any finding is a problem; the exit code is then 5")
    findings: list[Finding] = Field(description="level, subject, message, remedy; in the order of the checks")

    def __repr_args__(self) -> list[tuple[str, Any]]:
        said = [f"{each.level} {each.subject}" for each in self.findings if each.level != "ok"]
        return [("model", self.model.spec), ("problem", self.problem), ("findings", said)]


class CorLoc(Record):
    """Share of the images whose box overlaps a true box with an IoU of at least 0.5, percent."""

    value: float
    low: float | None = Field(description="95 % interval (Wilson)")
    high: float | None
    images: int = Field(description="that have true boxes and were looked at")


class DiscoverSweep(Record):
    """Many settings on the same images: CorLoc, and for cuts how clear they are."""

    warning: str = Field(description="why the best row is not a result")
    table: Table = Field(description="one row per setting, best first")
    halves: float | None = Field(
        description="CorLoc where each half of the images is judged by the setting that is best on the other half"
    )
    unlabelled: float | None = Field(
        default=None, description="CorLoc of the setting with the largest mean eigengap, chosen without true boxes"
    )


@dataclass(frozen=True, eq=False, slots=True)
class Boxed:
    """What a result holds of single images in the program that found it, beside what result.json keeps.

    Args:
        rows: one for each box, and one for each image without; see `DiscoverResult.to_pandas`.
        pictures: the first images with their boxes, `report.sheets.boxes.Picture`.
    """

    rows: tuple[dict[str, Any], ...] = ()
    pictures: tuple[Any, ...] = ()

    def __eq__(self, other: object) -> bool:
        """A result that is read back is the same result."""
        return isinstance(other, Boxed)

    def __hash__(self) -> int:
        return 0


class DiscoverResult(DrawnResult):
    """Boxes found without supervision and how well they fit: ``result.json`` of `vitreg discover`."""

    schema_: Literal["vitreg.discover/1"] = Field(default="vitreg.discover/1", alias="schema")
    model: EvalModel
    images: ImagesRecord
    found: int = Field(description="boxes in boxes.json")
    corloc: CorLoc | None = Field(description="null without true boxes")
    controls: dict[str, float] = Field(description="CorLoc of boxes that look at no image, percent")
    without_boxes: int = Field(description="images without true boxes, left out of CorLoc")
    without_cut: int = Field(default=0, description="images whose graph of patches has no cut, and so no found box")
    without_box: dict[str, int] = Field(
        default_factory=dict, description="images without a found box, by the reason; those without a cut among them"
    )
    by_chance: int = Field(
        default=0, description="images whose box is of patches strewn as by chance; LOST gives one for noise too"
    )
    setting: dict[str, Any] = Field(description="method, feature, block, normalisation and bias of the boxes")
    protocol: dict[str, Any] = Field(description="every other setting that makes the number")
    sweep: DiscoverSweep | None = None
    notes: list[str] = Field(default_factory=list)
    undrawn: list[Undrawn] = Field(default_factory=list, description="figures that could not be drawn")
    provenance: Provenance
    _boxed: Boxed = PrivateAttr(default_factory=Boxed)

    @property
    def boxed(self) -> Boxed:
        """The boxes of single images; empty in a result that was read from its file, beside which lies boxes.json."""
        return self._boxed

    def with_boxes(self, rows: Sequence[dict[str, Any]], pictures: Sequence[Any]) -> Self:
        """Return the result with the boxes of single images."""
        found = self.model_copy()
        found._boxed = Boxed(tuple(rows), tuple(pictures))
        return found

    def __repr_args__(self) -> list[tuple[str, Any]]:
        corloc = None if self.corloc is None else self.corloc.value
        return [("model", self.model.spec), ("images", self.images.seen), ("found", self.found), ("corloc", corloc)]


class RepairColumn(Record):
    """One column of the table of repairs."""

    name: str
    title: str
    side: Literal["gain", "damage", "cost"]
    unit: str = Field(default="", description="% where a value is a share in percent")
    better: Literal["smaller", "larger", "neither"]
    least: float = Field(default=0.0, description="the smallest change that is called better or worse; in its unit")
    compared: bool = Field(
        default=False, description="a value says how the repaired model differs from the model as it is"
    )
    meaning: str = Field(description="how it is measured, a sentence")


class RepairCell(Record):
    """One number of the table; its intervals are of 95 %, made as `by` says."""

    value: float
    low: float | None = None
    high: float | None = None
    change: float | None = Field(default=None, description="from the model as it is, on the same images")
    change_low: float | None = None
    change_high: float | None = None
    by: Literal["bootstrap", "Wilson", "Wilson, tokens", "Bonett-Price"] = Field(
        default="bootstrap",
        description="bootstrap: 95 % of the resamples of the held-out images; Wilson: of a share of images, or of as many "
        "tokens as vary independently, where the bootstrap is a point; Bonett-Price: of a fall between paired shares",
    )


class RepairRow(Record):
    """One model, repaired by one method or by one of its controls, on the held-out images."""

    model: str
    method: str = Field(description="as --methods says it, settings included; none is the model as it is")
    control: str = Field(default="", description="random, zero strength, clean twin or twin; empty for a repair")
    cells: dict[str, RepairCell] = Field(
        default_factory=dict, description="by column; a number that has no meaning is absent"
    )
    lacking: dict[str, str] = Field(default_factory=dict, description="why a number is absent, by column")
    forced: bool = Field(default=False, description="the model has no outliers, and was repaired all the same")
    failed: str = Field(default="", description="why there are no numbers; empty where there are some")
    unneeded: bool = Field(
        default=False, description="the model has no outliers on these images, so nothing is repaired"
    )
    identical: bool = Field(default=False, description="every token equals that of the model as it is, bit for bit")
    kept: bool = Field(default=False, description="whether an earlier run had measured it")
    notes: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)
    maps: list[list[list[float | None]]] = Field(
        default_factory=list,
        description="norms of the patches at the peak, on their grid, of the first held-out images",
    )


class RepairsResult(DrawnResult):
    """Repairs of several models on the same images: ``result.json`` of `vitreg repairs`."""

    schema_: Literal["vitreg.repairs/1"] = Field(default="vitreg.repairs/1", alias="schema")
    data: str
    images: int = Field(description="that could be read; half of them judge")
    held_out: int = Field(description="images that no repair was fitted on or chosen with; all numbers are of these")
    shown: list[str] = Field(default_factory=list, description="names of the images whose maps are drawn")
    skipped: list[Skipped] = Field(default_factory=list)
    columns: list[RepairColumn]
    rows: list[RepairRow] = Field(
        description="by model, the model as it is first, then methods, each before its controls"
    )
    resamples: int = Field(description="of the images, for the intervals")
    notes: list[str] = Field(default_factory=list)
    undrawn: list[Undrawn] = Field(default_factory=list, description="figures that could not be drawn")
    provenance: Provenance

    def __repr_args__(self) -> list[tuple[str, Any]]:
        said = [(f"{row.method} {row.control}".strip(), row.failed or f"{len(row.cells)} numbers") for row in self.rows]
        return [("data", self.data), ("held_out", self.held_out), *said]

    @property
    def repairable(self) -> bool:
        """Whether any model had something to repair."""
        return any(not row.control and not row.unneeded and not row.failed for row in self.rows)
