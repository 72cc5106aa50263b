"""What a repair says about itself: the schema ``vitreg.repair/1`` of ``repair.json``. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vitreg.records import Record, Side

SCHEMA = "vitreg.repair/1"


class Base(Record):
    """The model that a repair was fitted on.

    Args:
        spec: how it is loaded again; "" for a module that a caller held.
        file: the checkpoint that was loaded into it, if one was.
        weights_size: image size (height, width) that its position table was read for.
        allow_partial: whether missing or unexpected tensors of it were accepted.
        random: whether its weights are the untrained ones of a seed.
        weights_sha256: of its tower's tensors, in any dtype they were loaded from.
        edits: names of the edits it had, such as an earlier repair, inner first.
    """

    spec: str
    file: str = ""
    weights_size: tuple[int, int] | None = None
    allow_partial: bool = False
    random: bool = False
    weights_sha256: str
    library: str
    blocks: int
    width: int
    edits: list[str] = Field(default_factory=list)

    def says(self, field: str) -> bool:
        """Whether the record has a field; those of older versions lack some."""
        return field in self.model_fields_set

    @property
    def title(self) -> str:
        """The model in a sentence."""
        return self.spec or (f"a model with {' + '.join(self.edits)}" if self.edits else "a module")


class OutliersRecord(Record):
    """The outliers that a repair was fitted to.

    Args:
        onset: the first block whose output shows them.
        peak: the block at which their norms differ most from those of other patches.
        thresholds: norm beyond which a patch is an outlier, for each block that shows them.
        share: of the patches, at the peak.
        ratio: median norm of outliers over that of other patches (low side: the inverse), at the peak.
        forced: no block shows a second group of norms; these are the 2 % of the patches with the largest norms.
    """

    side: Side
    onset: int
    peak: int
    thresholds: dict[int, float]
    share: float
    ratio: float
    forced: bool = False


class EffectRecord(Record):
    """What a repair does to images.

    Args:
        images: how many.
        share: outliers among the patches at the peak, by the thresholds of the unrepaired model.
        before: the same without the repair.
        worst_share: the largest share of any block that shows outliers.
        ratio: median norm of the tokens that were outliers at the peak over that of the other patches, with the repair.
        cls_change: 1 - cosine of the class token (of the mean patch without one) before and after, mean over images.
    """

    images: int
    share: float
    before: float
    worst_share: float
    ratio: float | None
    cls_change: float


class RepairRecord(Record):
    """One repair.

    Args:
        method: its name, such as "test-time".
        settings: of the method, as given.
        base: the model it belongs to.
        size: image size (height, width) it was fitted at.
        images: how many it was fitted on and chosen with; held-out ones are not counted.
        seconds: how long that took.
        details: what the method chose, such as neurons by block.
        held_out: its effect on images that it was not fitted on; None where it was fitted on none.
        random: fitted as a control: the same number of neurons or tokens, chosen by lot.
        sha256: of the details and the tensors, 16 hexadecimal digits; "" where an older version wrote the record.
    """

    schema_: Literal["vitreg.repair/1"] = Field(default="vitreg.repair/1", alias="schema")
    method: str
    settings: dict[str, Any]
    base: Base
    size: tuple[int, int]
    images: int
    seconds: float
    outliers: OutliersRecord | None
    details: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    held_out: EffectRecord | None = None
    random: bool = False
    sha256: str = ""
    vitreg: str = ""
