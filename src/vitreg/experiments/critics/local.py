"""Cleaner maps are not better local features (Lappe & Giese): norms lose their outliers, and patches know no more of their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.experiments.experiment import Drawings, Ends, Experiment, Says
from vitreg.experiments.outliers import absence, ends_of, note_of, of_verdict, share_interval
from vitreg.experiments.pictures.judging import NO_TWIN, TWIN, twin_of
from vitreg.quantities import number, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

BY = "Lappe & Giese, NeurIPS 2025, arXiv 2505.05892"
MARGIN = 0.02  # of all patches placed right, or of the error of their pixels: less is no better (ours)
CLEANER = Says(
    id="cleaner-norms",
    says="With registers fewer patches have outlying norms.",
    criterion=f"a smaller share of the patches are outliers than of {TWIN}, which has some; interval of the difference below 0; where none "
    "are found, the smallest mild group that would have been is the upper end",
    by=BY,
)
NO_BETTER = Says(
    id="no-better-local",
    says="Patches of the model with registers know no more of their place and of their pixels.",
    criterion=(
        f"against {TWIN}, over all patches: neither is the position found in {100 * MARGIN:g} % of the patches more, nor the error "
        f"of the pixels smaller by {100 * MARGIN:g} % of it, with 97.5 % certainty each; not held if one certainly is"
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
        numbers |= {f"{task}_control": max(result.controls.values())} if task == "position" else {}
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
        return says.untestable(found.subject, NO_TWIN)
    if not twin.numbers["outliers"]:
        return says.outcome(found.subject, None, f"{twin.subject} has no outliers, so there is nothing to clean.")
    return _cleaner(found, twin) if says is CLEANER else _no_better(found, twin)


def _cleaner(found: Measured, twin: Measured) -> Claim:
    own, other = found.numbers["share"] or 0.0, twin.numbers["share"] or 0.0
    words = f"{percent(own)} of the patches are outliers, and {percent(other)} of {twin.subject}"
    theirs, ours = ends_of(twin, "share"), ends_of(found, "share")
    if not found.numbers["outliers"]:
        sure, said = absence(found, theirs[0] if theirs else 0.0)
        words += f" ({said[0].lower()}{said[1:]})"
        if not sure:
            return CLEANER.untestable(found.subject, f"{words}.", own - other)
        ours = (0.0, found.numbers["sees_mild"] or 0.0)
    ends = None if ours is None or theirs is None else difference((own, *ours), (other, *theirs))
    return CLEANER.decided(found.subject, own - other, ends, words, below=0.0, write=percent_of_all)


def percent_of_all(share: float) -> str:
    """Write a difference of shares in percent."""
    return f"{number(100 * share)} %"


def _no_better(found: Measured, twin: Measured) -> Claim:
    gains = [_gain(found, twin, task, sign) for task, sign in (("position", 1.0), ("pixels", -1.0))]
    if any(each is None for each in gains):
        return NO_BETTER.untestable(found.subject, "Too few images for an interval.")
    place, pixels = (each for each in gains if each is not None)
    control = twin.numbers.get("position_control")
    if control is not None and (twin.numbers["position_low"] or 0.0) <= control:
        return NO_BETTER.untestable(
            found.subject,
            f"The probe of position is not shown to beat its control: {number(twin.numbers['position'])} % against "
            f"{number(control)} %.",
        )
    relative = tuple(100 * each / (twin.numbers["pixels"] or 1.0) for each in pixels)
    most = 100 * MARGIN
    first = NO_BETTER.decided(
        found.subject, place[0], place[1:],
        f"Position found in {number(place[0])} points more ({number(place[1])} to {number(place[2])}) than by {twin.subject}", below=most,
    )  # fmt: skip
    second = NO_BETTER.decided(
        found.subject, relative[0], (relative[1], relative[2]),
        f"Error of the pixels smaller by {number(relative[0])} % ({number(relative[1])} to {number(relative[2])})", below=most,
    )  # fmt: skip
    return NO_BETTER.together([first, second])


def difference(one: tuple[float, float, float], other: tuple[float, float, float]) -> Ends:
    """Return the interval of a difference of two values with their ends, taken as independent, which is too wide here."""
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    return a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)


def _gain(found: Measured, twin: Measured, task: str, sign: float) -> tuple[float, float, float] | None:
    """Return by how much a model is better, with the interval of two means taken as independent, which is too wide here."""
    own, other = ([each.numbers.get(f"{task}{end}") for end in ("", "_low", "_high")] for each in (found, twin))
    if None in own or None in other:
        return None
    (a, a_low, a_high), (b, b_low, b_high) = ([value or 0.0 for value in each] for each in (own, other))
    low, high = difference((a, a_low, a_high), (b, b_low, b_high))
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
