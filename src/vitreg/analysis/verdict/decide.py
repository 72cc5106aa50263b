"""From the detections of every layer to one answer: kind, strength, confidence, and the reason in plain words.

Strength describes the effect, confidence the evidence. Mild is an outlier norm of 2 to 3 times the median of the other
patches, moderate 3 to 6, strong above 6 (the paper's DINOv2 models show about 10). Confidence is the share of bootstrap
resamples of the images with the same kind; below 0.8 the verdict does not say artifacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitreg.analysis.outliers import Detection, Side
from vitreg.analysis.verdict.absence import MIN_IMAGES_FOR_POSITIONS, few, group_of, none, unstable
from vitreg.analysis.verdict.resampling import MIN_CONFIDENCE
from vitreg.quantities import count, number, percent, short
from vitreg.records import Followed, OwnMedian, Power, Strength, VerdictKind, VerdictRecord

NEGLIGIBLE = 0.05  # of an AUC: so near to 0.5 a difference hardly matters (ours)
GONE = 1.2  # times the norm of other patches; below it, former outliers no longer stand out


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Facts about the outliers at the peak layer, for the verdict's text."""

    layers: int
    images: int
    images_with: float  # share of images with at least one
    grid: tuple[int, int]
    positions: np.ndarray  # [P] share of images with an outlier here
    isolated: float | None  # share of outliers without another among their 8 neighbours
    redundancy_auc: float | None  # probability that an outlier is more redundant than another patch
    cls_attention: dict[
        int, tuple[float, float]
    ]  # layer -> share of the next block's CLS attention on its outliers, share of patches
    received: dict[int, float]  # layer -> attention an outlier receives from the next block / that of another patch
    at_output: bool  # the last block still shows a group of them
    output: Followed | None  # the peak layer's outliers after the last block; None if the model drops them before it


def strength_of(ratio: float) -> Strength:
    """The word for a ratio of medians."""
    return "mild" if ratio < 3 else "moderate" if ratio < 6 else "strong"


def choose(detections: Sequence[dict[str, Detection]]) -> tuple[Side | None, int | None, int | None]:
    """Pick (side, first layer, peak layer) from the detections {"high": ..., "low": ...} of every layer.

    The peak is the layer with the largest ratio, among layers with at least half of the largest outlier share: a few
    extreme tokens in an early layer are the effect's beginning, not its peak. If both sides are found, the larger ratio
    wins.
    """
    best: tuple[float, Side, int, int] | None = None
    for side in ("high", "low"):
        found = {layer: d[side] for layer, d in enumerate(detections) if d[side].found}
        if not found:
            continue
        common = max(d.share for d in found.values())
        peak = max(
            (layer for layer, d in found.items() if d.share >= common / 2), key=lambda layer: found[layer].ratio or 0
        )
        candidate = (found[peak].ratio or 0.0, side, min(found), peak)
        best = max(best, candidate) if best else candidate
    return (best[1], best[2], best[3]) if best else (None, None, None)


def inherited(detection: Detection, entering_ratio: float | None) -> bool:
    """Whether the tokens had most of their unusual norm at the input of block 0, so that the blocks did not make it.

    The norm of a patch embedding follows brightness and contrast: white or plain grey patches can form a mode of their own
    before the first block, also in an untrained model. Blocks make artifacts: they must account for at least half of
    the ratio, on a logarithmic scale.
    """
    return entering_ratio is not None and detection.ratio is not None and entering_ratio**2 > detection.ratio


def position_locked(positions: np.ndarray, images: int) -> bool:
    """Whether most outliers sit at places that carry one in at least half of the images, of fewer than eight in three
    quarters: two of four often share a plain corner."""
    total, often = positions.sum(), 0.5 if images >= 2 * MIN_IMAGES_FOR_POSITIONS else 0.75
    return images >= MIN_IMAGES_FOR_POSITIONS and total > 0 and positions[positions >= often].sum() / total >= 0.5


def conclude(
    detections: Sequence[dict[str, Detection]],
    chosen: tuple[Side | None, int | None, int | None],
    confidence: float | None,
    evidence: Evidence | None,
    images: int,
    power: Power | None = None,
) -> VerdictRecord:
    """Put the verdict in words and numbers; `power` is what the images could have shown where nothing was found."""
    side, first, peak = chosen
    if side is None or first is None or peak is None or evidence is None:
        return none(detections, confidence, images, power)
    detection = detections[peak][side]
    if confidence is not None and confidence < MIN_CONFIDENCE:
        return unstable(detection, peak, confidence, images)
    if confidence is None and evidence.images_with < 1:
        return few(detection, peak, evidence.images_with, images)
    kind: VerdictKind = "high-norm" if side == "high" else "low-norm"
    if position_locked(evidence.positions, images):
        kind = "position-locked"
    ratio = detection.ratio or 1.0
    strength = strength_of(ratio)
    effects = _effects(detection, evidence, ratio)
    return VerdictRecord(
        kind=kind,
        strength=strength,
        confidence=confidence,
        first_layer=first,
        peak_layer=peak,
        outlier_fraction=detection.share,
        threshold=detection.threshold,
        ratio=ratio,
        sentence=_sentence(kind, strength, detection, ratio, evidence),
        reason=" ".join(_reasons(kind, detection, ratio, first, peak, evidence, confidence)),
        effects=effects,
        advice=_advice(kind, strength, evidence),
    )


def against_own_median(own: OwnMedian) -> str:
    """Say how many patches stand out within their own image, independent of the threshold pooled over images."""
    factor = short(own.factor if own.side == "high" else 1 / own.factor)
    beyond = f"{factor} times the median norm of {'their' if own.images_with else 'its'} own image"
    bound = f"at {'least' if own.side == 'high' else 'most'}"
    if not own.images_with:
        return f"In block {own.layer}, no patch has {bound} {beyond}."
    return (
        f"In block {own.layer}, {percent(own.share)} of the patches have {bound} {beyond}; "
        f"{percent(own.images_with)} of the images contain such patches."
    )


def _effects(detection: Detection, evidence: Evidence, ratio: float) -> dict[str, float]:
    effects = {"norm_ratio": ratio, "outlier_fraction": detection.share, "images_with_outliers": evidence.images_with}
    if evidence.isolated is not None:
        effects["isolated"] = evidence.isolated
    if evidence.redundancy_auc is not None:
        effects["redundancy_auc"] = evidence.redundancy_auc
    if evidence.cls_attention:
        layer = max(evidence.cls_attention, key=lambda k: evidence.cls_attention[k])
        share, expected = evidence.cls_attention[layer]
        effects["cls_attention_share"] = share
        effects["cls_attention_lift"] = share / expected
        effects["cls_attention_layer"] = float(layer + 1)
    if evidence.received:
        effects["attention_received"] = max(evidence.received.values())
    return effects


def _sentence(kind: VerdictKind, strength: Strength, detection: Detection, ratio: float, evidence: Evidence) -> str:
    kind_of = f"{strength} artifacts{' at fixed positions' if kind == 'position-locked' else ''}"
    where = "" if evidence.at_output else " in its middle layers"
    said = f"{percent(detection.share)} of the patches have {_size(detection, ratio, digits=2)} the norm of the others"
    if kind == "position-locked":
        said += ", at the same positions in most images"
    return (
        f"This model has {kind_of}{where}: {said}.{'' if evidence.at_output else f' {_at_output(detection, evidence)}'}"
    )


def _at_output(detection: Detection, evidence: Evidence) -> str:
    if evidence.output is None:
        return "The model drops these patches before its output."
    if evidence.output.ratio < GONE:
        return "At its output the same patches no longer stand out."
    size = _size(detection, evidence.output.ratio, digits=2)
    return f"At its output the same patches have {size} the norm of the others and form no separate group."


def _size(detection: Detection, ratio: float, digits: int = 3) -> str:
    return f"{short(ratio if detection.side == 'high' else 1 / ratio, digits)} times"


def _reasons(
    kind: VerdictKind,
    detection: Detection,
    ratio: float,
    first: int,
    peak: int,
    evidence: Evidence,
    confidence: float | None,
) -> list[str]:
    side = "above" if detection.side == "high" else "below"
    reasons = [
        f"After block {peak} (of 0 to {evidence.layers - 1}) the patches form two groups: {group_of(detection)}. "
        f"They lie {side} a norm of {number(detection.threshold)}.",
        f"Such a group is first found after block {first}.",
    ]
    if not evidence.at_output:
        reasons.append(_at_the_end(detection, evidence.output))
    reasons += _places(evidence)
    if evidence.redundancy_auc is not None:
        reasons.append(_redundancy(evidence, evidence.redundancy_auc, detection.share))
    reasons += _attention(evidence)
    if confidence is None:
        reasons.append(f"{count(evidence.images, 'image is', 'images are')} too few to say how dependable this is.")
    else:
        reasons.append(f"{percent(confidence)} of the resamples of the {evidence.images} images show outliers too.")
    if kind == "position-locked":
        reasons.append("Content does not cause them: most lie at positions where at least half of the images have one.")
    return reasons


def _redundancy(evidence: Evidence, auc: float, share: float) -> str:
    """Say on which side of 0.5 the AUC lies, or that so few outliers do not tell.

    Decided is an AUC that is two standard deviations of random places away from 0.5. What is not decided counts as equal only
    where random places would stay near 0.5.
    """
    patches = evidence.images * evidence.grid[0] * evidence.grid[1]
    outliers = max(share * patches, 1.0)
    chance = 2 * float(np.sqrt((patches + 1) / (12 * outliers * max(patches - outliers, 1.0))))  # Mann and Whitney 1947
    said = f"AUC {number(auc)}; 0.5 is no difference"
    decided = abs(auc - 0.5) > chance
    if decided or chance <= NEGLIGIBLE:
        words = ("more than" if auc > 0.5 else "less than") if decided else "about as much as"
        return f"Their input patches resemble their neighbours {words} other patches do ({said})."
    ends = " to ".join(short(end, 2) for end in (max(0.5 - chance, 0.0), min(0.5 + chance, 1.0)))
    return (
        f"Whether their input patches resemble their neighbours more than other patches do is not decided on "
        f"{count(evidence.images, 'image')} ({said}, and as many patches at random places reach {ends})."
    )


def _places(evidence: Evidence) -> list[str]:
    rows, cols = evidence.grid
    said = [f"{percent(evidence.images_with)} of the images contain at least one outlier."]
    if evidence.isolated is not None:
        said.append(f"{percent(evidence.isolated)} of the outliers have no other one among their 8 neighbours.")
    shares = evidence.positions
    often = [p for p in np.argsort(shares)[::-1][:2] if shares[p] >= 5 * max(shares.mean(), 1e-9)]
    if evidence.images >= MIN_IMAGES_FOR_POSITIONS and often:
        places = " and ".join(
            f"row {p // cols}, column {p % cols} ({percent(float(shares[p]))} of the images)" for p in often
        )
        said.append(f"Most frequent on the {rows}x{cols} grid: {places}.")
    return said


def _attention(evidence: Evidence) -> list[str]:
    said = []
    if evidence.cls_attention:
        layer = max(evidence.cls_attention, key=lambda k: evidence.cls_attention[k])
        share, expected = evidence.cls_attention[layer]
        said.append(
            f"The CLS token attends to them most in block {layer + 1}: they take {percent(share)} of its attention to patches, "
            f"{number(share / expected)} times their share of the patches."
        )
    if evidence.received:
        layer = max(evidence.received, key=lambda k: evidence.received[k])
        if evidence.received[layer] >= 2:
            said.append(
                f"In block {layer + 1} an outlier receives {number(evidence.received[layer])} times the attention of another patch."
            )
    return said


def _at_the_end(detection: Detection, output: Followed | None) -> str:
    if output is None:
        return "After the last block the same patches are gone: the model drops them."
    numbers = f"{_size(detection, output.ratio)} the norm of the others, AUC {number(output.auc)}"
    if output.ratio < GONE:
        return f"After the last block the same patches no longer stand out ({numbers})."
    return f"After the last block the same patches still stand out ({numbers}), but form no separate group."


def _advice(kind: VerdictKind, strength: Strength, evidence: Evidence) -> list[str]:
    if kind == "position-locked":
        return [
            "Run `vitreg doctor` on this model: a row of the position table that stands out can cause such artifacts.",
            "Do not drop tokens by a norm threshold: it would remove the same positions from every image.",
        ]
    advice = []
    if strength == "mild":
        advice.append("The effect is mild: compare your task with and without these patches before changing the model.")
    if not evidence.at_output:
        advice.append(
            "The output shows no artifacts, but features of middle layers do: choose layers with care."
            if evidence.output is None or evidence.output.ratio < GONE
            else "The output is affected too: there the same patches lie in the tail of the others, and no threshold separates them."
        )
    if kind == "low-norm":
        advice.append("Norm cutoffs from the literature only look for high norms and miss these patches.")
    advice.append(
        "Attention maps and object discovery by raw dot products are affected first. "
        "If you train the model, use registers."
    )
    return advice
