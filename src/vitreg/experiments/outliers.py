"""What several experiments ask of a scan: is there a second group of tokens, and if not, could these images have shown one?"""

from __future__ import annotations

from vitreg.analysis.intervals import mean_of_images
from vitreg.experiments.experiment import Says
from vitreg.quantities import count, percent
from vitreg.records import Histogram, ScanResult
from vitreg.records.reproduction import Claim, Measured

FEWEST = 5  # images with outliers, below which nothing is said of how much images differ
PLANTED = "PLANTED: the artifacts were written into the weights; nothing was trained"


def note_of(model: str) -> str:
    """Say of a planted model that it is one."""
    if not model.startswith("planted:"):
        return ""
    return "clean twin of the planted models: the same weights with nothing planted" if "clean" in model else PLANTED


def without_outliers(says: Says, found: Measured) -> Claim | None:
    """Judge a model that has no outliers; None if it has some.

    The claim is not held if a moderate effect would have been found, and not testable otherwise, nor where the images do not
    agree on whether there are any.
    """
    if found.numbers["outliers"]:
        return None
    if found.numbers.get("undecided"):
        return says.outcome(
            found.subject,
            None,
            "Outliers are not established: some patches stand out, but too few of the images show it.",
        )
    if found.numbers["could_see"]:
        return says.outcome(found.subject, False, "It has no outliers; a moderate second group would have been found.")
    return says.outcome(
        found.subject, None, "No outliers were found, and these images could not have shown a moderate second group."
    )


def of_verdict(result: ScanResult) -> dict[str, float | None]:
    """Return the numbers of a verdict that `without_outliers` reads."""
    power = result.verdict.power
    return {
        "outliers": float(result.verdict.kind != "none"),
        "undecided": float(result.verdict.undecided),
        "could_see": float(power is not None and power.excludes("moderate")),
    }


def share_interval(per_image: Histogram | None, patches: int, seed: int = 0) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of the share of outlier tokens: images are resampled, not tokens, which come in groups.

    Args:
        per_image: how many images carry n outliers.
        patches: tokens of an image.
    """
    found = mean_of_images(per_image, seed)
    return (None, None) if found is None else (found[1] / patches, found[2] / patches)


def too_few(says: Says, found: Measured, images: float) -> Claim | None:
    """Judge a model of which too few images hold outliers; None for enough."""
    if images >= FEWEST:
        return None
    return says.outcome(
        found.subject,
        None,
        f"Outliers lie in {count(int(images), 'image')} only; {FEWEST} are the fewest from which anything is said.",
    )


def shares(low: float | None, high: float | None) -> str:
    """Write the interval of a share."""
    return "" if low is None or high is None else f" ({percent(low)} to {percent(high)})"
