"""95 % intervals of shares that hold near 0 and 1: for 0 of 20, a bootstrap would give 0.0 to 0.0."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from jaxtyping import Float64

from vitreg.records import Histogram

RESAMPLES = 2000
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


def wilson(hits: float, count: float, of: int = 1) -> tuple[float, float]:
    """Interval of a share of independent trials (Wilson 1927).

    >>> sorted(p for p in shares if abs(hits / count - p) == z * sqrt(p * (1 - p) / count))

    Args:
        of: as many shares, whose intervals all hold together with 95 % (Bonferroni).
    Raises:
        ValueError: without a trial, or for more hits than trials.
    """
    if not 0 <= hits <= count or not count:
        raise ValueError(f"{hits} hits of {count} trials")
    z = _Z if of == 1 else NormalDist().inv_cdf(1 - 0.025 / of)
    share, spread = hits / count, z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return (0.0 if hits == 0 else float(centre - half)), (1.0 if hits == count else float(centre + half))


def difference_of_shares(one: float, of_one: float, other: float, of_other: float) -> tuple[float, float]:
    """Interval of the difference of two shares of independent trials: Newcombe (1998), of two Wilson intervals.

    Of the same trials it is too wide rather than too narrow, if they agree more often than by chance.

    Args:
        one, other: the shares; of_one, of_other: how many trials each had.
    Raises:
        ValueError: without a trial.
    """
    low, high = wilson(one * of_one, of_one)
    other_low, other_high = wilson(other * of_other, of_other)
    gap = one - other
    return (
        gap - float(np.hypot(one - low, other_high - other)),
        gap + float(np.hypot(high - one, other - other_low)),
    )


def paired_difference(differences: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Interval of the difference of two shares of the same trials (Bonett & Price 2012).

    If both answers agree on every image the difference is 0, but its interval is not empty.

    Args:
        differences: -1, 0 or 1 for each trial.
    Raises:
        ValueError: without a trial.
    """
    gained, lost = (int((differences == sign).sum()) for sign in (1, -1))
    return paired_difference_of(gained, lost, len(differences))


def paired_difference_of(gained: float, lost: float, count: float) -> tuple[float, float]:
    """The same, from how many trials only the one and only the other has right.

    Raises:
        ValueError: without a trial.
    """
    if not count:
        raise ValueError("no trial")
    more, less = ((each + 1) / (count + 2) for each in (gained, lost))
    half = _Z * np.sqrt((more + less - (more - less) ** 2) / (count + 2))
    return max(-1.0, float(more - less - half)), min(1.0, float(more - less + half))


def mean_of_images(per_image: Histogram | None, seed: int = 0) -> tuple[float, float, float] | None:
    """Mean number of outliers of an image, and its interval: images are resampled, not tokens, which come in groups.

    Args:
        per_image: how many images carry n outliers.
    Returns:
        mean, low, high; None without images.
    """
    if per_image is None or not sum(per_image.counts):
        return None
    counts = np.asarray(per_image.counts, dtype=np.int64)
    per = np.floor(np.asarray(per_image.edges[:-1]) + 0.5)  # a bin is as wide as one count
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), RESAMPLES)
    low, high = np.percentile(drawn @ per / counts.sum(), (2.5, 97.5))
    return float(counts @ per / counts.sum()), float(low), float(high)


def share_of_outliers(per_image: Histogram | None, share: float) -> tuple[float, float] | tuple[None, None]:
    """Interval of a share of tokens, from how many of them each image carries.

    Args:
        share: of the tokens of all images; tells how many tokens an image has.
    """
    found = mean_of_images(per_image)
    if found is None or not found[0]:
        return None, None
    mean, low, high = found
    return share * low / mean, share * high / mean
