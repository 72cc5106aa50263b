"""The power of a scan: the smallest share of outliers that these images would reveal with a probability of 0.8.

Resamples that agree on "none" cannot rule out a rare effect that no image happens to carry. So a second mode is
injected into the measured norms of one block, at a few ratios of the median on each side, to find how many such tokens
the scan's detector needs. Then images are drawn that carry a share of them unevenly, to count how often the scan would
report artifacts: detector, gates and agreement of images included. The cost does not grow with the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vitreg.analysis.norms import BINS, NormHistogram, encode, to_bin
from vitreg.analysis.outliers import MAX_SHARE, MIN_SHARE, NEAR, Detector, Side
from vitreg.analysis.verdict.resampling import MIN_CONFIDENCE, MIN_IMAGES_FOR_CONFIDENCE, RESAMPLES, Pools, weights
from vitreg.records import Detectable, Power

POWER = 0.8
RATIOS = (2.25, 3.5, 6.0)  # mild, moderate, strong; below the median their inverses
DRAWS = 400
TRIES, ENOUGH = 8, 5  # a number of tokens is enough if it is found in all but one of 8 resamples, or in the first 5
SEEN = 7 / 8  # the probability assumed for that; so few resamples tell no more
STEP = 1.5  # factor to the next number of tokens tried
MANY = 50_000  # above it, each drawn place stands for several tokens
GRID = 1.1  # shares are searched to within this factor
TAIL = 0.99  # how unevenly images carry norms beyond this quantile stands for how unevenly they would carry outliers,
MIN_UNEVENNESS = 2.0  # but no more evenly than plain patches are spread over photographs: 1.8 and 2.6 in planted models
LARGEST_INJECTION = MAX_SHARE / 2  # of the tokens; the gates refuse twice as many


@dataclass(frozen=True)
class Images:
    """The groups of images to draw.

    Args:
        sizes: [G] images of each group.
        patches: of one image.
        unevenness: the number of outliers of an image has mean m and variance m + unevenness * m^2.
    """

    sizes: np.ndarray
    patches: int
    unevenness: float

    @classmethod
    def of(cls, histograms: np.ndarray, patches: int, side: Side) -> Images:
        """Estimate sizes and unevenness on one side from the norm counts [G, BINS] of groups of images."""
        sizes = histograms.sum(1) / patches
        pooled = np.cumsum(histograms.sum(0))
        if side == "high":
            far = histograms[:, int(np.searchsorted(pooled, TAIL * pooled[-1])) + 1 :]
        else:
            far = histograms[:, : int(np.searchsorted(pooled, (1 - TAIL) * pooled[-1]))]
        beyond = far.sum(1)  # [G]
        rate = beyond.sum() / sizes.sum()  # of an image
        expected = rate * sizes
        excess = float(((beyond - expected) ** 2 - expected).sum())
        measured = excess / float((rate**2 * sizes).sum()) if rate else 0.0
        return cls(sizes, patches, max(measured, MIN_UNEVENNESS))

    @cached_property
    def _rates(self) -> np.ndarray:
        shape = (DRAWS, len(self.sizes))
        return np.random.default_rng(0).gamma(self.sizes / self.unevenness, self.patches * self.unevenness, shape)

    @cached_property
    def _again(self) -> np.ndarray:
        return weights(len(self.sizes), RESAMPLES, 0).astype(
            np.float64
        )  # [RESAMPLES, G]; a product of floats is the fast one

    def chance(self, share: float, needed: int) -> float:
        """Probability that the scan calls outliers of this share artifacts: enough, not too many, and in enough
        resamples.

        A lower bound: draws and resamples with just enough outliers count as missed one time in eight (SEEN).
        """
        counts = np.random.default_rng(1).poisson(share * self._rates)  # [DRAWS, G]
        room = self.sizes * self.patches
        counts = np.minimum(counts, room)
        total, most = counts.sum(1), MAX_SHARE * room.sum()
        enough = (total >= needed) & (total <= most)
        if self.sizes.sum() < MIN_IMAGES_FOR_CONFIDENCE:
            return float(SEEN * (enough & (counts > 0).all(1)).mean())
        again = self._again @ counts.T  # [RESAMPLES, DRAWS]
        agreeing = ((again >= needed) & (again <= most)).mean(0)
        return float(SEEN * (enough & (SEEN * agreeing >= MIN_CONFIDENCE)).mean())

    def smallest_share(self, needed: int | None) -> float | None:
        """Return the smallest share that the scan finds with probability `POWER`, given `needed` tokens; None if there
        is none."""
        if needed is None:
            return None
        high, low = MAX_SHARE, MIN_SHARE / 4
        # Large shares are so uneven that some draws exceed a fifth of all tokens, which the gates refuse.
        while self.chance(high, needed) < POWER:
            high /= GRID**2
            if high * self.patches * self.sizes.sum() < needed:
                return None
        while high / low > GRID:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if self.chance(middle, needed) >= POWER else (middle, high)
        return high


def power_of(histograms: np.ndarray, patches: tuple[int, int], layers: tuple[int, int], detector: Detector) -> Power:
    """Return the smallest detectable shares in two blocks, for each of `RATIOS` above the median and below.

    Args:
        histograms: [G, 2, BINS] norm counts of groups of images in the two blocks; empty groups are left out.
        patches: tokens that an image counts in each of the two.
        layers: the block used above the median, and the one below.
    """
    histograms = histograms[histograms.any(axis=(1, 2))]
    shown, unevenness = {}, 0.0
    for which, side in enumerate(("high", "low")):
        images = Images.of(histograms[:, which], patches[which], side)
        unevenness = max(unevenness, images.unevenness)
        shown[side] = _detectable(images, histograms[:, which], side, detector)
    return Power(
        layer=layers[0],
        below_layer=layers[1],
        probability=POWER,
        unevenness=round(unevenness, 3),
        detectable=shown["high"],
        below=shown["low"],
    )


def _detectable(images: Images, histograms: np.ndarray, side: Side, detector: Detector) -> list[Detectable]:
    """Return the smallest share for each of `RATIOS` on one side; a weaker effect never needs fewer tokens than a
    stronger one."""
    found, injection = [], Injection(histograms, side, detector)
    needed: int | None = injection.fewest
    for factor in sorted(RATIOS, reverse=True):
        ratio = factor if side == "high" else 1 / factor
        needed = None if needed is None else injection.needed(ratio, needed)
        already = injection.already(ratio)
        share = images.smallest_share(None if needed is None else needed + already)
        found.append(Detectable(ratio=float(f"{ratio:.3g}"), share=None if share is None else float(f"{share:.2g}")))
    return found[::-1]


class Injection:
    """Tokens injected into resamples of one block's norms, for the detector to find.

    Args:
        histograms: [G, BINS] norm counts of groups of images, none empty.
    """

    def __init__(self, histograms: np.ndarray, side: Side, detector: Detector) -> None:
        self._side: Side = side
        self._detector, self._random = detector, np.random.default_rng(0)
        pool = Pools(histograms)
        self._whole = pool(np.ones(len(histograms)))
        self._drawn = [pool(weight) for weight in weights(len(histograms), TRIES, 1)]
        self.fewest = max(int(np.ceil(MIN_SHARE * self._whole.total)), 1)
        self._most = int(LARGEST_INJECTION * self._whole.total)

    def needed(self, ratio: float, fewest: int) -> int | None:
        """Return how many tokens at this ratio of the median the detector needs; None if a tenth of all is too few."""
        count = fewest
        while count <= self._most:
            if self._dependably(count, ratio):
                return count
            count = max(int(STEP * count), count + 1)
        return None

    def already(self, ratio: float) -> int:
        """Count the tokens already there. They count with the injected ones: a real second mode may hide among them."""
        edge = self._whole.median * (ratio / NEAR if self._side == "high" else ratio * NEAR)
        return self._whole.split(edge, self._side)[1].total

    def _dependably(self, count: int, ratio: float) -> bool:
        times, misses = -(-count // MANY), 0
        for tried, drawn in enumerate(self._drawn, start=1):
            normal = self._random.standard_normal(count // times)
            again = self._random.choice(normal, len(normal))  # with replacement, as in a resample
            misses += not self._detector(injected(drawn, again, ratio, times), self._side).found
            if misses > 1 or misses == tried:  # a miss at the first try ends it
                return False
            if tried == ENOUGH and not misses:
                return True
        return True


def injected(histogram: NormHistogram, normal: np.ndarray, ratio: float, times: int = 1) -> NormHistogram:
    """Return the norms with the injected ones: log-normal around `ratio` times the median, as wide as the middle two
    thirds of the norms.

    Args:
        normal: where in that distribution each new token lies, in standard deviations.
        times: how many tokens lie there.
    """
    spread = np.log(histogram.quantile(0.84) / histogram.quantile(0.16)) / 2
    codes = encode(histogram.median * ratio * np.exp(spread * normal))
    return NormHistogram(histogram.counts + times * np.bincount(to_bin(codes), minlength=BINS))
