"""What a look at single photos found: the schema ``vitreg.look/1`` that `vitreg look --json` prints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vitreg.records.base import Heatmap, Record, Result
from vitreg.records.scan import ModelRecord, Side, Skipped


class BlockLook(Record):
    """Norms of the patch tokens after one block, of one photo."""

    index: int
    median: float
    max: float
    ratio: float | None = Field(
        description="median norm of the second group / of the others; null without a second group"
    )
    share: float = Field(description="of the patch tokens in the second group")


class ModelLook(Record):
    """What one model shows on one photo. Blocks are counted from 0, rows and columns of patches from the upper left."""

    name: str = Field(description="as the picture heads it")
    model: ModelRecord
    found: bool = Field(description="whether a block shows a second group of patch norms")
    side: Side | None = Field(description="of the others' norms, on which the group lies")
    share: float = Field(description="of the patch tokens in the second group, after block `peak`")
    ratio: float | None = Field(description="median norm of the group / of the others, on the low side the inverse")
    first: int | None = Field(description="the first block after which such a group is found")
    single: int | None = Field(
        default=None,
        description="the block from which on single patches of the group have at least twice the median norm, on the low side "
        "at most half of it, where no group is found yet; null if none has",
    )
    peak: int = Field(description="the block of the norm map: with the clearest group, else with the longest tail")
    threshold: float | None = Field(description="norm that separates the group after block `peak`")
    patches: list[tuple[int, int]] = Field(description="row and column of each patch of the group")
    place: str = Field(description="where on the photo they lie, in words; empty without a group")
    norms: Heatmap = Field(description="of the patch tokens after block `peak`; 0 where a patch has no token")
    blocks: list[BlockLook]
    attention_block: int | None = Field(description="of the attention maps; null where attention is not read")
    missing: dict[str, str] = Field(description="which maps there are not, and why")
    sentence: str


class PhotoLook(Record):
    """One photo by every model."""

    photo: str
    picture: str | None = Field(description="the PNG file; null if none was written")
    models: list[ModelLook]


class Seconds(Record):
    """Where the time went; PyTorch and the libraries of models are imported before or while models load."""

    load: float = Field(description="models, with imports of their libraries")
    forward: float = Field(description="photos and models: decoding, forwards, statistics")
    drawing: float


class LookResult(Result):
    """All photos of one call."""

    schema_: Literal["vitreg.look/1"] = Field(default="vitreg.look/1", alias="schema")
    photos: list[PhotoLook]
    skipped: list[Skipped] = Field(default=[])
    there: int | None = Field(description="photos that were named; null where their number is unknown")
    chosen: str = Field(description="how the models were chosen, if they were not named; else empty")
    caution: str = Field(description="what one photo cannot show")
    seconds: Seconds
    vitreg: str = Field(description="version")

    def __repr_args__(self) -> list[tuple[str, Any]]:
        names = [photo.photo for photo in self.photos]
        models = [each.name for photo in self.photos[:1] for each in photo.models]
        return [("photos", names), ("models", models), ("skipped", [each.name for each in self.skipped])]
