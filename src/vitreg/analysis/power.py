"""What a scan could have shown: a share of outliers that these images reveal in at least four tries of five.

That resamples agree on "none" says nothing of a rare effect which none of the images happens to carry. So a second mode is
put into the measured norms of one block, at a few ratios of the median, and the scan's own detector is asked how many such
tokens it needs; then images are drawn that carry a share of them, some more than others, and it is counted how often the
scan would say "high-norm": detector, gates and the agreement of resamples included. The cost does not grow with images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from vitreg.analysis.norms import BINS, NormHistogram, encode, to_bin
from vitreg.analysis.outliers import MAX_SHARE, MIN_SHARE, NEAR, Detector
from vitreg.analysis.resampling import MIN_CONFIDENCE, MIN_IMAGES_FOR_CONFIDENCE, weights
from vitreg.records import Detectable, Power

POWER = 0.8
RATIOS = (2.25, 3.5, 6.0)  # mild, moderate, strong
DRAWS = 400
TRIES, MISSES = 8, 1  # of resamples with so many tokens at most one may be missed
STEP = 1.5  # otherwise this many times as many tokens are tried
GRID = 1.1  # a share is given to this factor
TAIL = 0.99  # how unevenly images carry norms beyond this quantile stands for how unevenly they would carry outliers,
MIN_UNEVENNESS = 2.0  # but no more evenly than plain patches are spread over photographs: 1.8 and 2.6 in planted models
LARGEST_INJECTION = MAX_SHARE / 2  # of the tokens; the gates refuse twice as many


@dataclass(frozen=True, slots=True)
class Images:
    """What is drawn: groups of images.

    Args:
        sizes: [G] images of each group.
        patches: of one image.
        unevenness: variance of an image's number of outliers is m + unevenness * m^2 at a mean of m.
    """

    sizes: np.ndarray
    patches: int
    unevenness: float

    @classmethod
    def of(cls, histograms: np.ndarray, patches: int) -> Images:
        """Read sizes and unevenness off the norm counts [G, BINS] of groups of images."""
        sizes = histograms.sum(1) / patches
        histograms, sizes = histograms[sizes > 0], sizes[sizes > 0]
        pooled = np.cumsum(histograms.sum(0))
        beyond = histograms[:, int(np.searchsorted(pooled, TAIL * pooled[-1])) + 1 :].sum(1)  # [G]
        rate = beyond.sum() / sizes.sum()  # of an image
        expected = rate * sizes
        excess = float(((beyond - expected) ** 2 - expected).sum())
        measured = excess / float((rate**2 * sizes).sum()) if rate else 0.0
        return cls(sizes, patches, max(measured, MIN_UNEVENNESS))

    def draw(self, share: float, rng: np.random.Generator) -> np.ndarray:
        """Outliers of each group in each of DRAWS tries, int64 [DRAWS, G]."""
        shape = (DRAWS, len(self.sizes))
        return rng.poisson(rng.gamma(self.sizes / self.unevenness, share * self.patches * self.unevenness, shape))


def power_of(histograms: np.ndarray, patches: int, layer: int, detector: Detector) -> Power:
    """What the norms of one block could have shown, at each of `RATIOS`.

    Args:
        histograms: [G, BINS] norm counts of groups of images; empty groups are left out.
        patches: tokens that an image counts.
    """
    histograms = histograms[histograms.sum(1) > 0].astype(np.int64)
    images = Images.of(histograms, patches)
    shares = [smallest_share(images, tokens_needed(histograms, detector, ratio)) for ratio in RATIOS]
    return Power(
        layer=layer,
        probability=POWER,
        unevenness=round(images.unevenness, 3),
        detectable=[
            Detectable(ratio=ratio, share=None if share is None else float(f"{share:.2g}"))
            for ratio, share in zip(RATIOS, shares, strict=True)
        ],
    )


def smallest_share(images: Images, needed: int | None) -> float | None:
    """The share of the tokens of which `needed` are found with probability `POWER`; None if a fifth is not enough."""
    low, high = MIN_SHARE / 4, MAX_SHARE
    if needed is None or chance(images, high, needed) < POWER:
        return None
    while high / low > GRID:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if chance(images, middle, needed) >= POWER else (middle, high)
    return high


def tokens_needed(histograms: np.ndarray, detector: Detector, ratio: float) -> int | None:
    """How many tokens at `ratio` times the median make the detector find outliers; None if a tenth of all does not.

    First the fewest that are found where they lie evenly in the second mode, then as many as are found in nearly all
    resamples of the images with tokens drawn at random, some of them twice as in a resample. Those that lie there
    already count with them: a real second mode may be hidden among them.
    """
    whole, rng = NormHistogram(histograms.sum(0)), np.random.default_rng(0)
    fewest, most = max(int(np.ceil(MIN_SHARE * whole.total)), 1), int(LARGEST_INJECTION * whole.total)

    def found(count: int) -> bool:
        even = ndtri((np.arange(count) + 0.5) / count)
        return detector(injected(whole, even, ratio), "high").found

    def dependably(count: int) -> bool:
        misses = 0
        for weight in rng.multinomial(len(histograms), np.full(len(histograms), 1 / len(histograms)), size=TRIES):
            drawn, again = NormHistogram(weight @ histograms), rng.choice(rng.standard_normal(count), count)
            misses += not detector(injected(drawn, again, ratio), "high").found
            if misses > MISSES:
                return False
        return True

    if most < fewest or not found(most):
        return None
    low, high = fewest - 1, most  # not found (or not asked), found
    while high - low > 1 and high > STEP * low:
        middle = max(round(float(np.sqrt(max(low, 1) * high))), low + 1)
        low, high = (low, middle) if found(middle) else (middle, high)
    while not dependably(high):
        high = max(int(STEP * high), high + 1)
        if high > most:
            return None
    return high + whole.split(whole.median * ratio / NEAR, "high")[1].total


def injected(histogram: NormHistogram, normal: np.ndarray, ratio: float) -> NormHistogram:
    """The norms with more: log-normal around `ratio` times the median, as wide as the middle two thirds of them.

    Args:
        normal: where in that distribution each new token lies, in standard deviations.
    """
    spread = np.log(histogram.quantile(0.84) / histogram.quantile(0.16)) / 2
    codes = encode(histogram.median * ratio * np.exp(spread * normal))
    return NormHistogram(histogram.counts + np.bincount(to_bin(codes), minlength=BINS))


def chance(images: Images, share: float, needed: int, seed: int = 0) -> float:
    """Probability that outliers of this share are called artifacts: enough of them, and in enough resamples.

    At least: of draws and resamples with just enough of them, one in eight (MISSES of TRIES) may be missed.
    """
    counts = images.draw(share, np.random.default_rng(seed))  # [DRAWS, G]
    enough = counts.sum(1) >= needed
    if images.sizes.sum() < MIN_IMAGES_FOR_CONFIDENCE:
        return float((enough & (counts > 0).all(1)).mean())
    again = weights(len(images.sizes), seed) @ counts.T >= needed  # [RESAMPLES, DRAWS]
    seen = 1 - MISSES / TRIES
    return float(seen * (enough & (seen * again.mean(0) >= MIN_CONFIDENCE)).mean())
