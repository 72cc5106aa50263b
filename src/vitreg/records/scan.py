"""What a scan found and what a run logged, without its sinks (`sinks`).

`ScanResult` is the schema ``vitreg.scan/1`` of ``result.json``, `Curves` the schema ``vitreg.curves/1`` of
``curves.json``. Within a version, fields keep their names and meanings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from vitreg.records.base import DrawnResult, Heatmap, Histogram, Record
from vitreg.records.moments import Strength, VerdictKind, Watch
from vitreg.records.sinks import SinksRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Side = Literal["high", "low"]


# Patches of DINOv2 ViT-g/14 above a norm of 150 (the paper, Fig. 3). A strength is excluded if artifacts as frequent as
# the paper's would have been found. Fixed before any result was seen; do not tune.
PAPER_SHARE = 0.023


class ModelRecord(Record):
    """What was scanned."""

    spec: str
    library: str
    blocks: int
    width: int
    heads: int | None = Field(description="attention heads of a block; null for a model without attention")
    parameters: int
    patch: tuple[int, int] = Field(description="height, width in pixels")
    image_size: tuple[int, int] = Field(description="height, width in pixels, as scanned")
    grid: tuple[int, int] = Field(description="rows, cols")
    tokens: dict[str, int] = Field(description="how many tokens of each role: cls, registers, other, patches")
    weights: str = Field(description="where the weights came from: a file, 'library', 'random'")
    weights_sha256: str
    notes: list[str] = Field(default=[])


class Skipped(Record):
    """An image that was not scanned, and why."""

    name: str
    reason: str

    @property
    def sentence(self) -> str:
        """Say so."""
        return f"{self.name} could not be read: {self.reason}."


class Undrawn(Record):
    """A chart or figure that could not be drawn, and why. Its numbers are still in the record."""

    name: str
    reason: str

    @property
    def sentence(self) -> str:
        """The line for the terminal."""
        return f"{self.name} could not be drawn ({self.reason}); everything else is complete."


class ImagesRecord(Record):
    """How many images were scanned and which were not."""

    seen: int
    skipped: list[Skipped] = Field(default=[])
    interrupted: bool = False
    planned: int | None = None
    sha256: str | None = Field(
        default=None,
        description="of the bytes of all images seen (pixels of pictures in memory), in any order; null for tensors and in "
        "earlier records",
    )


class Followed(Record):
    """The outlier tokens of the peak layer, as they are after another block: they often stand out where the detector
    finds nothing."""

    median: float
    ratio: float = Field(description="their median norm / that of the other patches; on the low side the inverse")
    auc: float = Field(
        description="probability that one of them lies further out than another patch; 0.5 is no difference"
    )


class LayerRecord(Record):
    """Patch-token norms of one block's output, before the final norm, pooled over images."""

    index: int
    median: float
    p99: float
    max: float
    min: float
    ratio: float | None = Field(
        description="median norm of outliers / of the rest, on the low side the inverse: never below 1; null without outliers"
    )
    threshold: float | None = Field(description="norm that separates outliers; null where the detector finds none")
    side: Side | None = None
    outlier_fraction: float
    quantiles: dict[str, float]
    histogram: Histogram = Field(description="of the norms, logarithmic edges")
    cls_norm: float | None = Field(description="mean norm of the class token")
    register_norms: list[float] = Field(description="mean norm of each register")
    cls_attention: float | None = Field(
        default=None,
        description="share of the CLS-to-patch attention that these outliers take in the next block, which reads them",
    )
    received: float | None = Field(
        default=None,
        description="attention an outlier receives / attention another patch receives, in the next block; mean of queries, heads",
    )
    received_share: float | None = Field(
        default=None, description="share of the attention to patches that these outliers receive, in the next block"
    )
    max_ratio: float | None = Field(default=None, description="largest norm / median; null for a median of 0")
    sinks: float | None = Field(
        default=None,
        description="share of patches that receive over 8x the mean attention, in this block and not the next",
    )
    followed: Followed | None = Field(
        default=None, description="the outliers of the peak layer; null for a verdict none"
    )
    gates: dict[str, float | bool | None] = Field(default={}, description="the numbers behind found / not found")


class Detectable(Record):
    """The smallest effect of one strength that these images could have shown."""

    ratio: float = Field(description="norm of the outliers / median of the others")
    share: float | None = Field(
        description="smallest share of the patch tokens known to be found, a bound; null if none is"
    )


class Power(Record):
    """The effects that these images could have shown, simulated from the norms of a block. Only for the verdict
    "none"."""

    layer: int = Field(description="the block whose norms reach furthest, in which outliers are hardest to tell")
    below_layer: int | None = Field(default=None, description="the same below the median")
    probability: float = Field(description="with which, at least, an effect of the shares below would have been found")
    unevenness: float = Field(
        description="of the outliers over images: variance of an image's count m + unevenness m^2"
    )
    detectable: list[Detectable] = Field(description="mild, moderate and strong effects, in this order")
    below: list[Detectable] = Field(
        default=[], description="the same below the median; empty in records written before it was simulated"
    )

    def excludes(self, strength: Strength) -> bool:
        """Whether an effect of this strength, as frequent as the paper's, would have been found on either side."""
        which = ("mild", "moderate", "strong").index(strength)
        shares = [edges[which].share for edges in (self.detectable, self.below) if edges]
        return all(share is not None and share <= PAPER_SHARE for share in shares)


class VerdictRecord(Record):
    """The answer: a kind, how strong, how sure, and why in plain words."""

    kind: VerdictKind
    strength: Strength
    confidence: float | None = Field(
        description="share of bootstrap resamples of the images that agree; null below 4 images"
    )
    first_layer: int | None
    peak_layer: int | None
    outlier_fraction: float
    threshold: float | None
    ratio: float | None
    sentence: str = Field(description="the verdict for a non-specialist")
    reason: str = Field(description="why, with the numbers")
    effects: dict[str, float] = Field(default={}, description="the ratios behind the strength")
    advice: list[str] = Field(default=[])
    undecided: bool = Field(
        default=False, description="kind none because the images do not agree on it or on anything else"
    )
    power: Power | None = Field(default=None, description="for a verdict none: what these images could have shown")


class RedundancyRecord(Record):
    """Cosine of patch embeddings to their 4 neighbours, before position embeddings (Sec. 2.1, Fig. 5a)."""

    outliers: Histogram
    others: Histogram
    outlier_mean: float | None
    other_mean: float | None
    auc: float | None = Field(description="probability that an outlier is more redundant than another patch")


class Finding(Record):
    """One line of the doctor: level, what, and what to do."""

    level: Literal["ok", "note", "warning", "problem"]
    subject: str
    message: str
    remedy: str = ""


class PrecisionChoice(Record):
    """What precision "auto" chose, and why."""

    chosen: Literal["fp32", "bf16"]
    why: str
    fp32_ms: float | None = Field(
        default=None, description="of one linear layer of a ViT-S; null where nothing was timed"
    )
    bf16_ms: float | None = None

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        return f"Precision {self.chosen}: {self.why}"


class Provenance(Record):
    """Enough to repeat the run."""

    vitreg: str
    command: str
    started: str
    seconds: float
    python: str
    packages: dict[str, str]
    hardware: str
    device: str
    precision: str
    precision_choice: PrecisionChoice | None = Field(default=None, description="null where a precision was named")
    processes: int
    git: str | None = None
    seed: int = 0


class Curve(Record):
    """One number over the steps of a run; null where it was not finite."""

    name: str
    steps: list[int]
    values: list[float | None]


class RunRecord(Record):
    """The log of a run: loss and rates, evaluations, norms, and its settings."""

    name: str = Field(description="of its folder")
    folder: str
    recipe: str = Field(description="kind of the recipe: supervised, clip, dinov2, dino, mae")
    size: str = Field(description="letter of the network's size and its patch, as S/16, and measures that were changed")
    registers: int | None  # of vitreg's own network; those of another model are its library's
    step: int = Field(description="the last step that was written down")
    total: int | None = Field(description="steps of the whole run as planned; null where that cannot be told")
    epochs: float | None = Field(description="of the data, up to that step")
    training: list[Curve] = Field(description="loss first; means over the steps since the value before")
    evaluations: list[Curve] = Field(description="the number that chooses the best checkpoint first")
    watched: Watch | None = Field(description="null where the norms were not watched")
    settings: dict[str, Any] = Field(description="by dotted key, as of `vitreg train`")
    unreadable: int = Field(default=0, description="lines of metrics.jsonl that are no records, and are left out")


class Curves(DrawnResult):
    """The whole of ``curves.json``: runs in the order they were named."""

    schema_: Literal["vitreg.curves/1"] = Field(default="vitreg.curves/1", alias="schema")
    runs: list[RunRecord]
    undrawn: list[Undrawn] = Field(default=[], description="charts and figures that could not be drawn")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def plot(self, kind: Literal["curves", "maps"] = "curves") -> Figure:
        """Return the curves of the runs, or their norm maps before, at and after the onset; of no window and not of pyplot.

        Raises:
            UserError: for another kind, and for maps if no run kept any.
        """
        return self._figure(kind)

    def __repr_args__(self) -> list[tuple[str, Any]]:
        return [("runs", [run.name for run in self.runs])]


class OwnMedian(Record):
    """Patch tokens compared with the median of their own image, beside the threshold pooled over images."""

    layer: int
    factor: float = Field(
        description="counted are norms of at least this many times the median, on the low side at most 1/"
    )
    side: Side
    share: float = Field(description="of the patch tokens")
    images_with: float = Field(description="share of the images with at least one")
    per_image: Histogram = Field(description="how many images carry n of them")


class OverImages(Record):
    """What other images of the kind would show: 95 % intervals of resamples of the images."""

    resamples: int
    found: float | None = Field(
        default=None,
        description="share of the resamples in which the last block shows outliers; null for a verdict none",
    )
    share: tuple[float, float] | None = Field(
        default=None, description="of the patch tokens that are outliers after the last block; null if it shows none"
    )
    ratio: tuple[float, float] | None = Field(default=None, description="their median norm / that of the others")
    first: tuple[int, int] | None = Field(
        default=None, description="first block with outliers, of the resamples that show some"
    )
    longest_register: tuple[float, float] | None = Field(
        default=None, description="norm of the longest register after the last block, mean over images, / median patch"
    )


class ScanResult(DrawnResult):
    """The whole of ``result.json``."""

    schema_: Literal["vitreg.scan/1"] = Field(default="vitreg.scan/1", alias="schema")
    model: ModelRecord
    images: ImagesRecord
    settings: dict[str, Any]
    layers: list[LayerRecord]
    verdict: VerdictRecord
    positions: Heatmap | None = Field(
        default=None, description="share of images with an outlier here, at the peak layer (Fig. 10)"
    )
    redundancy: RedundancyRecord | None = None
    per_image: Histogram | None = Field(default=None, description="how many images carry n outliers at the peak layer")
    own_median: OwnMedian | None = Field(
        default=None, description="patches that stand out of their own image, at the peak layer"
    )
    over_images: OverImages | None = Field(
        default=None, description="intervals over images; null unless asked for, and for too few images"
    )
    head_sinks: SinksRecord | None = Field(
        default=None,
        description="heads with an attention sink; null where attention was not read, and in earlier records",
    )
    examples: list[str] = Field(default=[], description="images shown on the page, most outliers first")
    lint: list[Finding] = Field(default=[])
    attention_unread: str = Field(default="", description="why attention was not read; empty where it was")
    watched: Watch | None = Field(
        default=None, description="for the model of a training run: its norms while it was trained"
    )
    undrawn: list[Undrawn] = Field(default=[], description="charts and figures that could not be drawn")
    provenance: Provenance

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def __repr_args__(self) -> list[tuple[str, Any]]:
        words = [("model", self.model.spec), ("images", self.images.seen), ("verdict", self.verdict.kind)]
        return [*words, ("strength", self.verdict.strength)]


def reading_block(layers: Sequence[LayerRecord]) -> int | None:
    """The block in which outliers receive most attention, relative to the layer they belong to: the next one. None if
    unknown.

    Measured by CLS attention; without a class token, by the attention from all other tokens.
    """
    for name in ("cls_attention", "received"):
        taken = {la.index + 1: v for la in layers if (v := getattr(la, name)) is not None and math.isfinite(v)}
        if taken:
            return max(taken, key=lambda block: taken[block])
    return None


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the page: maps of its patch tokens at the peak layer. Arrays are float32 unless said otherwise."""

    name: str
    image: np.ndarray  # uint8 [H, W, 3], as the model saw it, before normalisation
    outliers: np.ndarray  # bool [rows, cols]
    norms: np.ndarray  # [rows, cols]
    cls_attention: np.ndarray | None  # [rows, cols], mean over heads, at `attention_layer`
    register_attention: np.ndarray  # [R, rows, cols]
    pca: np.ndarray  # [rows, cols, 3] in 0..1
    attends: np.ndarray  # int32 [P, K]: the K patches each patch attends to most, row-major indices
    attends_share: np.ndarray  # [P, K]: their attention
    attention_layer: int | None = None  # block of the attention maps; None is the last
    layer: int | None = None  # block of the norms and of the outliers; None if unknown
    near: np.ndarray | None = None  # bool [rows, cols]: patches that miss the threshold by less than `outliers.NEAR`
    file: bytes | None = None  # the PNG or JPEG of `image`, if it was kept
