"""The verdict "none" in words, and what keeps it from being said: images that do not agree, or are too few to tell.

Agreement of resamples is not power: twelve images without a rare effect agree that it is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.analysis.outliers import MIN_RATIO, Detection, shortfalls
from vitreg.analysis.resampling import MIN_CONFIDENCE, MIN_IMAGES_FOR_CONFIDENCE
from vitreg.records import PAPER_SHARE, Power, Strength, VerdictRecord

MIN_IMAGES_FOR_POSITIONS = 4
STRENGTHS: tuple[Strength, ...] = ("mild", "moderate", "strong")
MORE_IMAGES = "Scan more images, of the kind you care about."


def none(
    detections: Sequence[dict[str, Detection]], confidence: float | None, images: int, power: Power | None = None
) -> VerdictRecord:
    """No block shows outliers: say what came closest and what these images could have shown, or that they do not agree."""
    reason = (
        f"After none of the {len(detections)} blocks a second group of patch tokens, made by the model and at least {MIN_RATIO:g} times "
        f"away from the median of the others, was found in {images} image{'s' * (images != 1)}."
    )
    closest = _closest(detections)
    if closest is not None:
        layer, detection = closest
        size = f"{detection.ratio:.2f} times {'the median norm of the rest' if detection.side == 'high' else 'smaller than the rest'}"
        reason += f" The closest was block {layer}: {detection.share:.2%} of the tokens at {size}, "
        entering = detection.gates.get("entering_ratio")
        if detection.gates.get("made_by_blocks") is False and entering is not None:
            reason += f"but they enter the first block with {entering:.2f} times: the pixels make it, not the model"
            reason += "." if images >= MIN_IMAGES_FOR_POSITIONS else ", or the position table (more images would tell)."
        else:
            reason += f"but {' and '.join(shortfalls(detection))}."
    if power is not None:
        reason += f" {_could_show(power, images)}"
    if confidence is not None and confidence < MIN_CONFIDENCE:
        return _no_artifacts(
            confidence,
            "No artifacts are established: there are none in all images together, but in too many draws of them.",
            f"{reason} Yet {1 - confidence:.0%} of the resamples of the images show some, "
            f"and 'none' is said where at most {1 - MIN_CONFIDENCE:.0%} do.",
            [MORE_IMAGES],
            undecided=True,
            power=power,
        )
    sentence = "No artifacts were found: in these images no group of patch features has an unusual norm."
    advice = ["Nothing needs fixing. Norms say nothing about artifacts of ordinary norm: look at the maps as well."]
    if power is not None and not excludes(power, "mild"):
        sentence = f"No artifacts were found, but {_limits(power, images)}."
        advice = [MORE_IMAGES, "Norms say nothing about artifacts of ordinary norm: look at the maps as well."]
    return _no_artifacts(confidence, sentence, reason, advice, power=power)


def excludes(power: Power, strength: Strength) -> bool:
    """Whether these images would have shown an effect of this strength, as frequent as the paper's."""
    share = dict(zip(STRENGTHS, power.detectable, strict=True))[strength].share
    return share is not None and share <= PAPER_SHARE


def _limits(power: Power, images: int) -> str:
    """Say which strengths these images can exclude at all."""
    counted = f"{images} image{'s' * (images != 1)}"
    excluded = [strength for strength in STRENGTHS if excludes(power, strength)]
    if not excluded:
        return f"{counted} cannot exclude even strong effects: too few to tell"
    edge = power.detectable[STRENGTHS.index(excluded[0])]
    return (
        f"{counted} can only exclude {' and '.join(excluded)} effects "
        f"(at least {edge.share:.2%} of the patches at {edge.ratio:g} times the median)"
    )


def _could_show(power: Power, images: int) -> str:
    # A stronger effect is found where a weaker one is, so a share is said once, at the weakest it holds for.
    weakest: dict[str, float] = {}
    for each in power.detectable:
        if each.share is not None:
            weakest.setdefault(f"{each.share:.2%}", each.ratio)
    shown = [f"{share} at {ratio:g} times" for share, ratio in weakest.items()]
    if not shown:
        return f"No share of outliers would be found dependably in {images} image{'s' * (images != 1)} like these."
    return (
        f"Images like these show, in at least {power.probability:.0%} of the tries, outliers that are at least "
        f"{' or '.join(shown)} the median norm (block {power.layer}, where they are hardest to tell); less can be there."
    )


def _closest(detections: Sequence[dict[str, Detection]]) -> tuple[int, Detection] | None:
    """Return layer and split that fail the fewest gates; of several the one with the largest ratio."""
    splits = [(layer, d) for layer, pair in enumerate(detections) for d in pair.values() if d.ratio is not None]
    return min(splits, key=lambda s: (len(shortfalls(s[1])), -(s[1].ratio or 0)), default=None)


def unstable(detection: Detection, peak: int, confidence: float, images: int) -> VerdictRecord:
    """A block shows outliers, but too few resamples do."""
    return _no_artifacts(
        1 - confidence,
        "No artifacts are established: a few patches stand out, but not dependably over the images.",
        (
            f"Block {peak} shows {detection.share:.2%} of the tokens {detection.ratio or 0:.2f} times away from the median, but only "
            f"{confidence:.0%} of the resamples of the {images} images agree ({MIN_CONFIDENCE:.0%} are asked for)."
        ),
        [MORE_IMAGES],
        undecided=True,
    )


def few(detection: Detection, peak: int, images_with: float, images: int) -> VerdictRecord:
    """A block shows outliers in too few images to resample, and not in all of them."""
    return _no_artifacts(
        None,
        "No artifacts are established: there are too few images, and not all of them show any.",
        (
            f"Block {peak} shows {detection.share:.2%} of the tokens {detection.ratio or 0:.2f} times away from the median, but in only "
            f"{images_with:.0%} of {images} images; with fewer than {MIN_IMAGES_FOR_CONFIDENCE} all must show them."
        ),
        [MORE_IMAGES],
        undecided=True,
    )


def _no_artifacts(
    confidence: float | None,
    sentence: str,
    reason: str,
    advice: list[str],
    *,
    undecided: bool = False,
    power: Power | None = None,
) -> VerdictRecord:
    return VerdictRecord(
        kind="none",
        strength="none",
        confidence=None if confidence is None else round(confidence, 4),
        first_layer=None,
        peak_layer=None,
        outlier_fraction=0.0,
        threshold=None,
        ratio=None,
        sentence=sentence,
        reason=reason,
        advice=advice,
        undecided=undecided,
        power=power,
    )
