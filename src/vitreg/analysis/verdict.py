"""From the detections of every layer to one answer: kind, strength, confidence, and the reason in plain words.

Strength speaks of the effect, confidence of the evidence. Mild is an outlier norm of 2 to 3 times the median of the other
patches, moderate 3 to 6, strong above 6 (the paper's DINOv2 models show about 10). Confidence is the share of bootstrap
resamples of the images that lead to the same kind; below 0.8 a second mode is not called artifacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitreg.analysis.absence import MIN_IMAGES_FOR_POSITIONS, few, none, unstable
from vitreg.analysis.outliers import Detection
from vitreg.analysis.resampling import MIN_CONFIDENCE
from vitreg.records import Followed, OwnMedian, Power, Strength, VerdictKind, VerdictRecord

GONE = 1.2  # times the norm of other patches: below, tokens that were outliers no longer stand out


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the outliers at the peak layer, for the words of the verdict."""

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
    output: Followed  # the outliers of the peak layer, after the last block


def strength_of(ratio: float) -> Strength:
    """The word for a ratio of medians."""
    return "mild" if ratio < 3 else "moderate" if ratio < 6 else "strong"


def choose(detections: Sequence[dict[str, Detection]]) -> tuple[str | None, int | None, int | None]:
    """Pick (side, first layer, peak layer) from the detections {"high": ..., "low": ...} of every layer.

    The peak is where outliers stand out most, among layers that show at least half of the largest share of them: a
    handful of tokens with an extreme norm in an early layer is the beginning of the effect, not its peak. If both sides
    are found, the one with the larger ratio speaks.
    """
    best: tuple[float, str, int, int] | None = None
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
    """Whether the tokens came in with most of their unusual norm, so that the blocks did not make it.

    The norm of a patch embedding follows brightness and contrast: white or plain grey patches can form a mode of their own
    before the first block, also in an untrained model. An artifact is made by the blocks: they must account for at least
    half of the ratio, on a logarithmic scale.
    """
    return entering_ratio is not None and detection.ratio is not None and entering_ratio**2 > detection.ratio


def position_locked(positions: np.ndarray, images: int) -> bool:
    """Whether most outliers sit at places that carry one in at least half of the images."""
    total = positions.sum()
    return images >= MIN_IMAGES_FOR_POSITIONS and total > 0 and positions[positions >= 0.5].sum() / total >= 0.5


def describe(
    detections: Sequence[dict[str, Detection]],
    chosen: tuple[str | None, int | None, int | None],
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
    """Say how many patches stand out of their own image, whatever the threshold pooled over images is."""
    beyond = f"{own.factor:g} times {'above' if own.side == 'high' else 'below'} the median of their own image"
    if not own.images_with:
        return f"No patches lie {beyond} at block {own.layer}."
    return f"{own.share:.2%} of the patches lie {beyond} at block {own.layer}, in {own.images_with:.0%} of the images."


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
    count = f"about {max(round(detection.share * 1000), 1)} in 1000"
    where = "" if evidence.at_output else " in its middle layers"
    end = ""
    if not evidence.at_output:
        rest = evidence.output.ratio
        size = f"{rest:.1f} times {_as_large(detection)} the others, but no longer a separate group"
        end = f"; at its output they are {'like the others' if rest < GONE else size}"
    if kind == "position-locked":
        places = f"{count} patch features, again and again in the same positions"
        return f"This model has {strength} artifacts at fixed places{where}: {places}{end}."
    size = f"{ratio:.1f} times {_as_large(detection)} the others"
    return f"This model has {strength} artifacts{where}: {count} patch features are {size}{end}."


def _as_large(detection: Detection) -> str:
    return "as large as" if detection.side == "high" else "smaller than"


def _reasons(
    kind: VerdictKind,
    detection: Detection,
    ratio: float,
    first: int,
    peak: int,
    evidence: Evidence,
    confidence: float | None,
) -> list[str]:
    rows, cols = evidence.grid
    high = detection.side == "high"
    size = (
        f"{ratio:.2f} times the median norm of the rest"
        if high
        else f"a median norm {ratio:.2f} times smaller than the rest"
    )
    reasons = [
        f"At the output of block {peak} (of 0 to {evidence.layers - 1}), {detection.share:.2%} of the patch tokens form a second "
        f"group {'above' if high else 'below'} a norm of {detection.threshold:.4g}, with {size}; one is first found at block {first}"
        + ("." if evidence.at_output else f"; {_at_the_end(evidence.output, high)}.")
    ]
    where = [f"{evidence.images_with:.0%} of the images carry at least one"]
    if evidence.isolated is not None:
        where.append(f"{evidence.isolated:.0%} of the outliers stand alone")
    top = np.argsort(evidence.positions)[::-1][:2]
    if evidence.images >= MIN_IMAGES_FOR_POSITIONS and evidence.positions[top[0]] >= 5 * max(
        evidence.positions.mean(), 1e-9
    ):
        places = " and ".join(
            f"row {p // cols}, column {p % cols} ({evidence.positions[p]:.0%} of images)" for p in top
        )
        where.append(f"the most frequent places on the {rows}x{cols} grid are {places}")
    reasons.append("; ".join(where).capitalize() + ".")
    if evidence.redundancy_auc is not None:
        kind_of = "more like" if evidence.redundancy_auc > 0.5 else "less like"
        reasons.append(
            f"Their input patches are {kind_of} their neighbours than others (AUC {evidence.redundancy_auc:.2f}; 0.5 is no difference)."
        )
    if evidence.cls_attention:
        layer = max(evidence.cls_attention, key=lambda k: evidence.cls_attention[k])
        share, expected = evidence.cls_attention[layer]
        reasons.append(
            f"They take up to {share:.1%} of the CLS token's attention to patches (in block {layer + 1}), "
            f"{share / expected:.1f} times their share."
        )
    if evidence.received:
        layer = max(evidence.received, key=lambda k: evidence.received[k])
        if evidence.received[layer] >= 2:
            reasons.append(
                f"In block {layer + 1} they receive {evidence.received[layer]:.0f} times the attention that other patches do, on average."
            )
    if confidence is None:
        reasons.append(f"{evidence.images} image{'s' * (evidence.images != 1)}: too few to say how dependable this is.")
    else:
        reasons.append(f"{confidence:.0%} of the resamples of the {evidence.images} images agree.")
    if kind == "position-locked":
        reasons.append("Most of them sit where at least half of the images have one, so content does not cause them.")
    return reasons


def _at_the_end(output: Followed, high: bool) -> str:
    size = f"{output.ratio:.2f} times the norm of the others" if high else f"a norm {output.ratio:.2f} times smaller"
    if output.ratio < GONE:
        return f"after the last block the same tokens no longer stand out ({size}, AUC {output.auc:.3f})"
    return (
        f"after the last block the same tokens still have {size} (AUC {output.auc:.3f}), but form no group of their own"
    )


def _advice(kind: VerdictKind, strength: Strength, evidence: Evidence) -> list[str]:
    if kind == "position-locked":
        return [
            "Run `vitreg doctor` on this model: a row of the position table that stands out causes this without any content.",
            "Do not use a norm threshold to drop tokens: it would blank the same places of every image.",
        ]
    advice = []
    if strength == "mild":
        advice.append("The effect is mild: compare your task with and without these tokens before changing the model.")
    if not evidence.at_output:
        advice.append(
            "At the output these tokens have norms like the others'; features of middle layers are affected. Choose layers with care."
            if evidence.output.ratio < GONE
            else "The output is affected too: the same tokens lie in the tail of the others there, where no threshold separates them."
        )
    if kind == "low-norm":
        advice.append("Norm cutoffs from the literature look upwards only and miss these tokens.")
    advice.append(
        "Attention maps and object discovery that rely on raw dot products are affected first; "
        "use registers if you train the model."
    )
    return advice
