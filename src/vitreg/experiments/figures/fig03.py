"""Fig. 3: the norms of the output tokens. A small share has norms far above all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import note_of, of_verdict, share_interval, shares, without_outliers
from vitreg.experiments.records import scans_drawn
from vitreg.quantities import number, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

GROUPS = Says(
    id="two-groups",
    says="The norms of patch tokens at the output fall into two groups.",
    criterion="the detector separates a group above the other norms after the last block",
)
LARGE = Says(
    id="ten-times",
    says="Outlier tokens have roughly ten times the norm of the others.",
    criterion="their median norm after the last block is at least five times that of the others",
    paper="about 10 times",
)
FEW = Says(
    id="few",
    says="Outliers are a small share of the tokens, about 2 %.",
    criterion="between 0.2 % and 10 % of the patch tokens after the last block, interval over images included",
    paper="2.37 %",
)
FACTOR, LEAST, MOST = 5.0, 0.002, 0.1
LAST = -1  # block


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and read the last block."""
    result, job = setting.scan(model)
    last, patches = result.layers[-1], result.model.grid[0] * result.model.grid[1]
    above = last.threshold is not None and last.side == "high"
    at_peak = result.verdict.peak_layer == last.index
    low, high = share_interval(result.per_image, patches, setting.seed) if above and at_peak else (None, None)
    numbers = {
        **of_verdict(result), "above": float(above), "ratio": last.ratio if above else None, "median": last.median,
        "share": last.outlier_fraction if above else 0.0, "share_low": low, "share_high": high,
    }  # fmt: skip
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs={"scan": job})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by its last block."""
    return [
        *GROUPS.of_each(measured, _groups),
        *LARGE.of_each(measured, _large),
        *FEW.of_each(measured, _few),
    ]


def _groups(found: Measured) -> Claim:
    absent = without_outliers(GROUPS, found)
    if absent is not None:
        return absent
    if found.numbers["above"]:
        return GROUPS.outcome(found.subject, True, f"{percent(found.numbers['share'] or 0)} lie above the others.")
    return GROUPS.outcome(
        found.subject,
        False,
        "It has outliers in earlier blocks or below the other norms, not above them after the last block.",
    )


def _large(found: Measured) -> Claim:
    absent, ratio = without_outliers(LARGE, found), found.numbers["ratio"]
    if absent is not None or ratio is None:
        return absent or LARGE.outcome(found.subject, False, "None lie above after the last block.")
    return LARGE.outcome(found.subject, ratio >= FACTOR, f"{number(ratio)} times the others.", ratio)


def _few(found: Measured) -> Claim:
    absent, share = without_outliers(FEW, found), found.numbers["share"] or 0.0
    if absent is not None or not found.numbers["above"]:
        return absent or FEW.outcome(found.subject, False, "None lie above after the last block.")
    low, high = found.numbers["share_low"], found.numbers["share_high"]
    held = (share if low is None else low) >= LEAST and (share if high is None else high) <= MOST
    return FEW.outcome(
        found.subject, held, f"{percent(share)}{shares(low, high)} of the patch tokens.", share, (low, high)
    )


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The histogram of norms of each model."""
    from vitreg.report.scan.charts import histogram

    return scans_drawn(record, jobs, lambda result: histogram.figure(result, LAST))


EXPERIMENT = Experiment(
    id="fig3", label="Fig. 3", title="Norms of the output tokens", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={
        "model": "DINOv2 ViT-g/14", "cutoff": 150, "share_above": 0.0237, "most_norms": "0 to 100",
        "outlier_norms": "about 200 to 600",
    },
    protocol="Norms of the patch tokens at the output of DINOv2 ViT-g/14, before the final LayerNorm; the cutoff was chosen by hand.",
    ours="Norms after the last block, before the final LayerNorm, of all images; the threshold is the scan's detector's.",
)  # fmt: skip
