"""What several experiments ask of a scan: is there a second group of tokens, and if not, could these images have shown one?"""

from __future__ import annotations

from vitreg.analysis.intervals import mean_of_images
from vitreg.experiments.experiment import Ends, Says
from vitreg.quantities import count, percent, short
from vitreg.records import Histogram, ScanResult, Strength
from vitreg.records.reproduction import Claim, Measured

FEWEST = 5  # images with outliers, or judged at all, below which nothing is said: one rule for every claim
LEAST = 0.002  # of the patches: the smallest group that still is the paper's "about 2 %", a tenth of it
RATIOS: dict[Strength, float] = {"mild": 2.25, "moderate": 3.5, "strong": 6.0}
"""Norms of groups over the median that a scan simulates, to say what it could have seen."""
TENTH = 0.1  # of the outliers: what may be left where they are said to be gone
PLANTED = "PLANTED: the artifacts were written into the weights; nothing was trained"


def note_of(model: str) -> str:
    """Say of a planted model that it is one."""
    if not model.startswith("planted:"):
        return ""
    return "clean twin of the planted models: the same weights with nothing planted" if "clean" in model else PLANTED


def absence(found: Measured, least: float = LEAST, strength: Strength = "mild") -> tuple[bool, str]:
    """Say what a scan that found no outliers could have found, and whether that excludes a group.

    Args:
        least: share of the patches that the group has. strength: of the group: mild, moderate or strong.
    """
    if found.numbers.get("undecided"):
        return False, "Outliers are not established: some patches stand out, but too few of the images show it"
    group = f"{strength} group ({short(RATIOS[strength])} times the median norm)"
    if f"sees_{strength}" not in found.numbers:
        return False, f"None were found; the record does not say whether a {group} would have been"
    sees = found.numbers[f"sees_{strength}"]
    if sees is None:
        return False, f"None were found, and these images would not show a {group} dependably"
    if sees <= least:
        return True, f"None were found; a {group} of at least {percent(sees)} of the patches would have been"
    return False, (
        f"None were found, but a {group} below {percent(sees)} of the patches may have been missed, and {percent(least)} would count"
    )


def without_outliers(says: Says, found: Measured, strength: Strength = "mild") -> Claim | None:
    """Judge a model that has no outliers; None if it has some.

    The claim is not held if a group that could fulfil it would have been found, and not testable otherwise, nor where the images
    do not agree on whether there is any.

    Args:
        strength: of the weakest group that could fulfil the claim.
    """
    if found.numbers["outliers"]:
        return None
    sure, words = absence(found, strength=strength)
    return says.outcome(found.subject, False if sure else None, f"{words}.")


def cured(claim: Claim, twin: Measured) -> Claim:
    """Take back that something was cured where the model without registers has no outliers: then registers did not do it.

    A record that holds no verdict of the twin passes.
    """
    if claim.outcome != "held" or "outliers" not in twin.numbers or twin.numbers["outliers"]:
        return claim
    reason = f"{claim.reason} But {twin.subject} has no outliers to be cured of: {absence(twin)[1]}."
    return claim.model_copy(update={"outcome": "not testable here", "reason": reason})


def of_verdict(result: ScanResult) -> dict[str, float | None]:
    """Return the numbers of a verdict that `absence` reads."""
    power = result.verdict.power
    numbers: dict[str, float | None] = {
        "outliers": float(result.verdict.kind != "none"),
        "undecided": float(result.verdict.undecided),
        "could_see": float(power is not None and power.excludes("moderate")),
    }
    if power is not None:
        for place, strength in enumerate(RATIOS):
            sides = [edges[place].share for edges in (power.detectable, power.below) if edges]
            known = [share for share in sides if share is not None]
            numbers[f"sees_{strength}"] = max(known) if len(known) == len(sides) else None
    return numbers


def over_images(result: ScanResult) -> dict[str, float | None]:
    """Return the intervals over images that a scan gives, as numbers that end in _low and _high; none of an earlier record."""
    found = result.over_images
    if found is None:
        return {}
    numbers: dict[str, float | None] = {"last_found": found.found}
    names = {"share": found.share, "ratio": found.ratio, "first": found.first, "longest": found.longest_register}
    for name, both in names.items():
        numbers |= {f"{name}_low": None if both is None else both[0], f"{name}_high": None if both is None else both[1]}
    return numbers


def ends_of(found: Measured, name: str) -> Ends | None:
    """Return the interval of a number; None where the record has none."""
    low, high = found.numbers.get(f"{name}_low"), found.numbers.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def share_interval(per_image: Histogram | None, patches: int, seed: int = 0) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of the share of outlier tokens: images are resampled, not tokens, which come in groups.

    Args:
        per_image: how many images carry n outliers.
        patches: tokens of an image.
    """
    found = mean_of_images(per_image, seed)
    return (None, None) if found is None else (found[1] / patches, found[2] / patches)


def too_few(says: Says, found: Measured, images: float | None, what: str = "hold outliers") -> Claim | None:
    """Judge a model of which too few images can be judged; None for enough.

    Args:
        images: how many; None where the record does not say.
    """
    if images is None:
        return says.untestable(found.subject, f"The record does not say how many images {what}.")
    if images >= FEWEST:
        return None
    return says.untestable(
        found.subject,
        f"Only {count(int(images), 'image')} {what}; {FEWEST} are the fewest from which anything is said.",
    )
