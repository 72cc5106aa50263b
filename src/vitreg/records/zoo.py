"""The board of `vitreg zoo`: what scans of many models say, ranked where their protocol is equal."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vitreg.records.base import DrawnResult, Record
from vitreg.records.scan import Provenance, Strength, Undrawn, VerdictKind


class Protocol(Record):
    """What must be equal for two rows to be ranked."""

    images: str | None = Field(description="hash of the images seen; null where the record does not say")
    seen: int = Field(description="how many images")
    resolution: str = Field(description="as the models saw them")
    fit: str
    precision: str
    detector: str
    vitreg: str = Field(description="version of the scan")


class BoardRow(Record):
    """One model."""

    model: str = Field(description="its spec; the folder of a record that could not be read")
    origin: Literal["scan", "record"] = Field(description="scanned by this command, or a record that was given")
    failed: str = Field(default="", description="why there are no numbers, a sentence; empty where there are some")
    note: str = Field(default="", description="such as: PLANTED, a model whose artifacts were written into its weights")
    folder: str = Field(default="", description="of the scan, relative to the board")
    groups: list[str] = Field(default=[], description="of the public list, the family first")
    license: str | None = Field(default=None, description="as the public list states it")
    protocol: Protocol | None = None
    differs: list[str] = Field(default=[], description="parts in which its protocol is not that of the ranked rows")
    rank: tuple[int, int] | None = Field(
        default=None,
        description="first and last place that the intervals of the shares allow, 1 has most outliers; null where unranked",
    )
    unranked: str = Field(default="", description="why a row of the ranked protocol has no rank")
    disagrees: str = Field(
        default="", description="that another row of the same weights, protocol and images has other numbers"
    )
    verdict: str = Field(default="", description="in words")
    kind: VerdictKind | None = None
    strength: Strength | None = None
    share: float | None = Field(default=None, description="of the patch tokens that are outliers, at the peak block")
    low: float | None = Field(default=None, description="95 % interval of the share, over images")
    high: float | None = None
    ratio_peak: float | None = Field(
        default=None, description="median norm of the outliers / of the others, peak block; on the low side the inverse"
    )
    ratio_output: float | None = Field(default=None, description="of the same tokens, after the last block")
    first_block: int | None = None
    peak_block: int | None = None
    blocks: int | None = None
    attention: float | None = Field(
        default=None,
        description="share of the attention to patches that outliers take, in the block that reads them most",
    )
    attention_of: Literal["CLS", "all tokens", ""] = ""
    registers: int | None = None
    patch: tuple[int, int] | None = Field(default=None, description="height, width in pixels")
    image_size: tuple[int, int] | None = Field(default=None, description="height, width in pixels")
    parameters: int | None = None
    weights_sha256: str = ""
    could: str = Field(default="", description='what these images could have shown, for a verdict "none"')


class PublishedRow(Record):
    """What others published of a model, by a protocol of their own. Never ranked with ours."""

    model: str = Field(description="as they call it")
    low: float | None = Field(default=None, description="share of the patch tokens, lower end of their range")
    high: float | None = None
    says: str = Field(description="their word where they give no number")
    source: str
    protocol: str = Field(description="theirs, in words")


class Board(DrawnResult):
    """``result.json`` of `vitreg zoo`."""

    schema_: Literal["vitreg.zoo/1"] = Field(default="vitreg.zoo/1", alias="schema")
    images: str = Field(description="what was looked at; empty where nothing was scanned")
    protocol: Protocol | None = Field(description="of the ranked rows; null where nothing is ranked")
    rows: list[BoardRow]
    published: list[PublishedRow]
    provenance: Provenance
    undrawn: list[Undrawn] = Field(default=[])

    def __repr_args__(self) -> list[tuple[str, Any]]:
        ranked = sum(row.rank is not None for row in self.rows)
        return [("rows", len(self.rows)), ("ranked", ranked), ("failed", sum(bool(row.failed) for row in self.rows))]
