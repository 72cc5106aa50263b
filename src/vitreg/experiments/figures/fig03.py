"""Fig. 3: the norms of the output tokens. A small share has norms far above all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import LEAST, ends_of, note_of, of_verdict, over_images, without_outliers
from vitreg.experiments.records import scans_drawn
from vitreg.quantities import number, percent
from vitreg.records import Strength
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

FACTOR, MOST = 5.0, 0.1
SURE = 0.975  # of the resamples, beyond which the 95 % interval of "found" is found
LAST = -1  # block
GROUPS = Says(
    id="two-groups",
    says="The norms of patch tokens at the output fall into two groups.",
    criterion=(
        "the detector separates a group above the other norms after the last block, in more than "
        f"{100 * SURE:g} % of the resamples of the images; not held if it does in less than {100 * (1 - SURE):g} %"
    ),
)
LARGE = Says(
    id="ten-times",
    says="Outlier tokens have roughly ten times the norm of the others.",
    criterion=f"their median norm after the last block is at least {FACTOR:.0f} times that of the others, interval over images included",
    paper="about 10 times",
)
FEW = Says(
    id="few",
    says="Outliers are a small share of the tokens, about 2 %.",
    criterion=f"between {100 * LEAST:g} % and {100 * MOST:g} % of the patch tokens after the last block, interval over images included",
    paper="2.37 %",
)


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and read the last block."""
    result, job = setting.scan(model)
    last = result.layers[-1]
    above = last.threshold is not None and last.side == "high"
    numbers = {
        **of_verdict(result), "above": float(above), "ratio": last.ratio if above else None, "median": last.median,
        "share": last.outlier_fraction if above else 0.0, **over_images(result),
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
    shown = found.numbers.get("last_found")
    if shown is None:
        return GROUPS.untestable(found.subject, "The record does not say what resamples of the images show.")
    above = bool(found.numbers["above"])
    held = True if above and shown > SURE else None if 1 - SURE <= shown <= SURE else False
    words = (
        f"{percent(found.numbers['share'] or 0)} lie above the others" if above
        else "Its outliers lie in earlier blocks or below the other norms, not above them after the last block"
    )  # fmt: skip
    words = f"{words}; {percent(shown)} of the resamples of the images show a group there."
    return GROUPS.outcome(found.subject, held, words, shown, above=SURE)


def _large(found: Measured) -> Claim:
    absent, ratio = _not_above(LARGE, found, "moderate"), found.numbers["ratio"] or 0.0
    return absent or LARGE.decided(
        found.subject,
        ratio,
        ends_of(found, "ratio"),
        f"{number(ratio)} times the others{_interval(found, 'ratio', number)}",
        above=FACTOR,
    )


def _few(found: Measured) -> Claim:
    absent, share = _not_above(FEW, found, "mild"), found.numbers["share"] or 0.0
    words = f"{percent(share)}{_interval(found, 'share', percent)} of the patch tokens"
    return absent or FEW.decided(
        found.subject, share, ends_of(found, "share"), words, above=LEAST, below=MOST, write=percent
    )


def _not_above(says: Says, found: Measured, strength: Strength) -> Claim | None:
    """Judge a model without a group above the others after the last block, as surely as that is known."""
    absent = without_outliers(says, found, strength)
    if absent is not None or found.numbers["above"]:
        return absent
    return says.outcome(found.subject, False if _groups(found).outcome == "not held" else None, _groups(found).reason)


def _interval(found: Measured, name: str, write: Callable[[float], str]) -> str:
    ends = ends_of(found, name)
    return "" if ends is None else f" ({write(ends[0])} to {write(ends[1])})"


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
