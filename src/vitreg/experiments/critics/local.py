"""Cleaner maps are not better local features (Lappe & Giese): norms lose their outliers, and patches know no more of their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import note_of, of_verdict, share_interval
from vitreg.experiments.pictures.judging import TWIN, twin_of
from vitreg.quantities import number, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

BY = "Lappe & Giese, NeurIPS 2025, arXiv 2505.05892"
MARGIN = 0.02  # of all patches placed right, or of the error of their pixels: less is no better (ours)
CLEANER = Says(
    id="cleaner-norms",
    says="With registers fewer patches have outlying norms.",
    criterion=f"the interval of the share of outliers lies below that of {TWIN}, which has outliers",
    by=BY,
)
NO_BETTER = Says(
    id="no-better-local",
    says="Patches of the model with registers know no more of their place and of their pixels.",
    criterion=(
        f"against {TWIN}, over all patches: neither is the position found in {100 * MARGIN:g} % of the patches more, nor the error "
        f"of the pixels smaller by {100 * MARGIN:g} % of it, with 97.5 % certainty each; not held if an interval lies on the better "
        "side of 0"
    ),
    by=BY,
)


def measure(setting: Setting, model: str) -> Measured:
    """Scan, and fit both probes of Fig. 5b."""
    scanned, job = setting.scan(model)
    verdict, shape = scanned.verdict, scanned.model
    numbers: dict[str, float | None] = {
        **of_verdict(scanned), "registers": float(shape.tokens.get("registers", 0)), "width": float(shape.width),
        "blocks": float(shape.blocks), "share": verdict.outlier_fraction if verdict.kind != "none" else 0.0,
    }  # fmt: skip
    if verdict.kind != "none":
        ends = share_interval(scanned.per_image, shape.grid[0] * shape.grid[1], setting.seed)
        numbers["share_low"], numbers["share_high"] = ends
    jobs = {"scan": job}
    for task, name in (("position", "accuracy"), ("pixels", "error")):
        result, jobs[task] = setting.evaluate(model, task, setting.folder_of_images)
        numbers[task] = result.metrics[name]
        low, high = result.intervals.get(name, (None, None))
        numbers |= {f"{task}_low": low, f"{task}_high": high}
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs=jobs)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model with registers against its twin without."""
    return [
        *CLEANER.of_each(measured, lambda found: _against(CLEANER, found, measured)),
        *NO_BETTER.of_each(measured, lambda found: _against(NO_BETTER, found, measured)),
    ]


def _against(says: Says, found: Measured, everyone: Sequence[Measured]) -> Claim:
    if not found.numbers["registers"]:
        return says.outcome(found.subject, None, "It has no registers.")
    twin = twin_of(found, everyone)
    if twin is None:
        return says.outcome(
            found.subject, None, "No model of its width and depth without registers was named before it."
        )
    if not twin.numbers["outliers"]:
        return says.outcome(found.subject, None, f"{twin.subject} has no outliers, so there is nothing to clean.")
    return _cleaner(found, twin) if says is CLEANER else _no_better(found, twin)


def _cleaner(found: Measured, twin: Measured) -> Claim:
    own, other = found.numbers["share"] or 0.0, twin.numbers["share"] or 0.0
    words = f"{percent(own)} of the patches are outliers, and {percent(other)} of {twin.subject}."
    if not found.numbers["outliers"]:
        sure = bool(found.numbers["could_see"])
        words += "" if sure else " These images could not have shown a moderate second group."
        return CLEANER.outcome(found.subject, True if sure else None, words, own - other)
    high, low = found.numbers["share_high"], twin.numbers["share_low"]
    if high is None or low is None:
        return CLEANER.outcome(found.subject, None, f"{words} Too few images for an interval.", own - other)
    return CLEANER.outcome(found.subject, high < low, words, own - other)


def _no_better(found: Measured, twin: Measured) -> Claim:
    gains = [_gain(found, twin, task, sign) for task, sign in (("position", 1.0), ("pixels", -1.0))]
    if any(each is None for each in gains):
        return NO_BETTER.outcome(found.subject, None, "Too few images for an interval.")
    place, pixels = (each for each in gains if each is not None)
    error = twin.numbers["pixels"] or 1.0
    relative = tuple(100 * each / error for each in pixels)
    ends = [place[1:], relative[1:]]
    better, least = any(low > 0 for low, _ in ends), all(high < 100 * MARGIN for _, high in ends)
    words = (
        f"Position found in {number(place[0])} points more ({number(place[1])} to {number(place[2])}) than by {twin.subject}; error "
        f"of the pixels smaller by {number(relative[0])} % ({number(relative[1])} to {number(relative[2])})."
    )
    held = False if better else True if least else None
    if held is None:
        words += f" Too few images: an interval holds 0 and {100 * MARGIN:g}."
    return NO_BETTER.outcome(found.subject, held, words, place[0], place[1:])


def _gain(found: Measured, twin: Measured, task: str, sign: float) -> tuple[float, float, float] | None:
    """Return by how much a model is better, with the interval of two means taken as independent, which is too wide here."""
    own, other = ([each.numbers.get(f"{task}{end}") for end in ("", "_low", "_high")] for each in (found, twin))
    if None in own or None in other:
        return None
    (a, a_low, a_high), (b, b_low, b_high) = ([value or 0.0 for value in each] for each in (own, other))
    low, high = a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)
    return (a - b, low, high) if sign > 0 else (b - a, -high, -low)


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """It has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="local-features", label="After the paper", title="Cleaner maps and local features", needs=("images",), measure=measure,
    claims=claims, draw=draw,
    published={"models": "DINOv2 without and with registers"},
    protocol="Maps and features of DINOv2, without and with registers: maps are cleaner, patches carry no better local information.",
    ours="The scan, and `eval position` and `eval pixels` over all patches of images that no probe was fitted on.",
)  # fmt: skip
