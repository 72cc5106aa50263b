"""Results of a measurement: plain values that serialise to JSON and can be drawn without a model or torch.

Reports read these and nothing else.
"""

from vitreg.records.base import (
    Heatmap,
    Histogram,
    Record,
)
from vitreg.records.moments import ByToken, LayerMoment, NormsMoment, Strength, VerdictKind, Watch
from vitreg.records.scan import (
    PAPER_SHARE,
    Curve,
    Curves,
    Detectable,
    Example,
    Finding,
    Followed,
    ImagesRecord,
    LayerRecord,
    ModelRecord,
    OwnMedian,
    Power,
    PrecisionChoice,
    Provenance,
    RedundancyRecord,
    RunRecord,
    ScanResult,
    Side,
    Skipped,
    Undrawn,
    VerdictRecord,
    reading_block,
)
from vitreg.records.sinks import (
    SINK_KINDS,
    SinkKind,
    SinksRecord,
    ValueSpace,
)

__all__ = [
    "PAPER_SHARE",
    "SINK_KINDS",
    "ByToken",
    "Curve",
    "Curves",
    "Detectable",
    "Example",
    "Finding",
    "Followed",
    "Heatmap",
    "Histogram",
    "ImagesRecord",
    "LayerMoment",
    "LayerRecord",
    "ModelRecord",
    "NormsMoment",
    "OwnMedian",
    "Power",
    "PrecisionChoice",
    "Provenance",
    "Record",
    "RedundancyRecord",
    "RunRecord",
    "ScanResult",
    "Side",
    "SinkKind",
    "SinksRecord",
    "Skipped",
    "Strength",
    "Undrawn",
    "ValueSpace",
    "VerdictKind",
    "VerdictRecord",
    "Watch",
    "reading_block",
]
