"""The verdict "none" in words, and its alternatives: images that disagree, or too few images to tell.

Agreement of resamples is not power: twelve images without a rare effect agree on its absence. Each text gives the plain
sentence first, then the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.analysis.outliers import Detection, shortfalls
from vitreg.analysis.verdict.resampling import MIN_CONFIDENCE, MIN_IMAGES_FOR_CONFIDENCE
from vitreg.quantities import count, none_of, number, percent, short
from vitreg.records import Detectable, Power, Strength, VerdictRecord

MIN_IMAGES_FOR_POSITIONS = 4
STRENGTHS: tuple[Strength, ...] = ("mild", "moderate", "strong")
MORE_IMAGES = "Scan more images of the kind you work with."
LOOK = "Look at the maps as well: an artifact of ordinary norm does not show in norms."


def none(
    detections: Sequence[dict[str, Detection]], confidence: float | None, images: int, power: Power | None = None
) -> VerdictRecord:
    """Word the verdict without outliers: the closest candidate and the effects excluded, or that the images
    disagree."""
    blocks = none_of(len(detections))
    reasons = [f"{blocks[0].upper()}{blocks[1:]} shows a second group of patch norms in {count(images, 'image')}."]
    closest = _closest(detections)
    if closest is not None:
        reasons.append(_comes_closest(*closest, images))
    undecided = confidence is not None and confidence < MIN_CONFIDENCE
    if confidence is not None and undecided:
        reasons.append(
            f"But {percent(1 - confidence)} of the resamples of the images show a second group; "
            f"the verdict is 'none' only if at most {percent(1 - MIN_CONFIDENCE)} do."
        )
    if power is not None:
        reasons.append(_could_show(power, images))
    if undecided:
        return _no_artifacts(
            confidence,
            "Artifacts are neither established nor excluded: all images together show none, but many resamples of them do.",
            reasons,
            [MORE_IMAGES],
            undecided=True,
            power=power,
        )
    if power is not None and not power.excludes("mild"):
        return _no_artifacts(
            confidence,
            f"No artifacts were found, but {_limits(power, images)}.",
            reasons,
            [MORE_IMAGES, LOOK],
            power=power,
        )
    size = "" if power is None else f" of at least {percent(_smallest(power, 'mild'))} of the patches"
    return _no_artifacts(
        confidence,
        f"No artifacts were found: in these images no group{size} has unusual norms.",
        reasons,
        ["Nothing that these images show needs fixing.", LOOK],
        power=power,
    )


def _limits(power: Power, images: int) -> str:
    """Say which strengths these images can exclude."""
    excluded: list[Strength] = [strength for strength in STRENGTHS if power.excludes(strength)]
    if not excluded:
        return f"{count(images, 'image is', 'images are')} too few to exclude even strong effects"
    ratios = " or ".join(short(edge.ratio) for edge in _both_sides(power, excluded[0]))
    return (
        f"{count(images, 'image')} can only exclude {' and '.join(excluded)} effects "
        f"({percent(_smallest(power, excluded[0]))} of the patches or more, at {ratios} times the median norm)"
    )


def _both_sides(power: Power, strength: Strength) -> list[Detectable]:
    return [side[STRENGTHS.index(strength)] for side in (power.detectable, power.below) if side]


def _smallest(power: Power, strength: Strength) -> float:
    """Return the share of patches that would have been found on either side, for an excluded strength."""
    return max(edge.share or 0.0 for edge in _both_sides(power, strength))


def _could_show(power: Power, images: int) -> str:
    these = f"{count(images, 'image')} like these" if images > 1 else "One image like this"
    shown = "; ".join(said for side in (power.detectable, power.below) if (said := _edges(side)))
    if not shown:
        return f"{these} would show no group dependably, however large."
    blocks = f"block {power.layer}"
    if power.below_layer not in (None, power.layer):
        blocks = f"blocks {power.layer} and {power.below_layer}"
    return (
        f"{these} would show a group of this size in at least {percent(power.probability)} of the cases: "
        f"{shown} (simulated for {blocks}, where norms reach furthest). Smaller or weaker groups can be missed."
        f"{_unshown(power)}"
    )


def _unshown(power: Power) -> str:
    """Name the side of the median on which nothing can be excluded: the other side's numbers do not cover it."""
    sides = (("above", power.detectable), ("below", power.below))
    blind = [side for side, edges in sides if edges and not _edges(edges)]
    return "".join(f" No group {side} the median would show dependably, however large." for side in blind)


def _edges(detectable: Sequence[Detectable]) -> str:
    # A stronger effect is found wherever a weaker one is, so each share is given once, at the weakest strength it holds
    # for.
    weakest: dict[float, float] = {}
    for each in detectable:
        if each.share is not None:
            weakest.setdefault(each.share, each.ratio)
    said = [f"{percent(share)} at {short(ratio)} times" for share, ratio in weakest.items()]
    if said:
        first = next(iter(weakest.items()))
        said[0] = f"{percent(first[0])} of the patches at {short(first[1])} times the median norm"
    return ", ".join(said)


def group_of(detection: Detection) -> str:
    """A second group as a phrase: its share of the patches, and its median norm against that of the others."""
    ratio = detection.ratio or 1.0
    size = number(ratio if detection.side == "high" else 1 / ratio)
    return f"{percent(detection.share)} of the patches have {size} times the median norm of the others"


def _comes_closest(layer: int, detection: Detection, images: int) -> str:
    said = f"Block {layer} comes closest: {group_of(detection)}. "
    entering = detection.gates.get("entering_ratio")
    if detection.gates.get("made_by_blocks") is False and entering is not None:
        size = number(entering if detection.side == "high" else 1 / entering)
        cause = "the pixels cause this, not the blocks"
        if images < MIN_IMAGES_FOR_POSITIONS:
            cause = "the pixels or the position table cause this, not the blocks (more images would tell which)"
        return f"{said}At the input of block 0 they already have {size} times the norm of the others, so {cause}."
    return f"{said}This group does not count: {_listed(shortfalls(detection))}."


def _listed(clauses: Sequence[str]) -> str:
    return " and ".join([", ".join(clauses[:-1]), clauses[-1]] if len(clauses) > 1 else clauses)


def _closest(detections: Sequence[dict[str, Detection]]) -> tuple[int, Detection] | None:
    """Return the layer and split that fail the fewest gates; among equals, the largest ratio."""
    splits = [(layer, d) for layer, pair in enumerate(detections) for d in pair.values() if d.ratio is not None]
    return min(splits, key=lambda s: (len(shortfalls(s[1])), -(s[1].ratio or 0)), default=None)


def unstable(detection: Detection, peak: int, confidence: float, images: int) -> VerdictRecord:
    """A block shows outliers, but too few resamples do."""
    return _no_artifacts(
        1 - confidence,
        "Artifacts are not established: some patches stand out, but too few resamples of the images show it.",
        [
            f"Block {peak} shows a second group: {group_of(detection)}.",
            f"{percent(confidence)} of the resamples of the {images} images show one; {percent(MIN_CONFIDENCE)} are required.",
        ],
        [MORE_IMAGES],
        undecided=True,
    )


def few(detection: Detection, peak: int, images_with: float, images: int) -> VerdictRecord:
    """A block shows outliers in too few images to resample, and not in all of them."""
    return _no_artifacts(
        None,
        "Artifacts are not established: some patches stand out, but not in every one of these few images.",
        [
            f"Block {peak} shows a second group: {group_of(detection)}.",
            f"Only {percent(images_with)} of the {images} images show it; "
            f"with fewer than {MIN_IMAGES_FOR_CONFIDENCE} images, all must show it.",
        ],
        [MORE_IMAGES],
        undecided=True,
    )


def _no_artifacts(
    confidence: float | None,
    sentence: str,
    reasons: list[str],
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
        reason=" ".join(reasons),
        advice=advice,
        undecided=undecided,
        power=power,
    )
