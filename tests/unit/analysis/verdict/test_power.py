"""What a scan says it could have shown is what it finds when that is really there."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binomtest

from vitreg.analysis import outliers
from vitreg.analysis.norms import BINS, NormHistogram, encode, to_bin
from vitreg.analysis.verdict import power
from vitreg.analysis.verdict.absence import none
from vitreg.analysis.verdict.resampling import MIN_CONFIDENCE, MIN_IMAGES_FOR_CONFIDENCE, bootstrap
from vitreg.records import Detectable, Power
from vitreg.report import words

PATCHES = 196


def counted(norms):
    """Norm counts [n, BINS] of images [n, P]."""
    return np.stack([np.bincount(to_bin(encode(image)), minlength=BINS) for image in norms])


def bulk(images, rng):
    return rng.lognormal(3, 0.12, (images, PATCHES))


def planted(norms, share, ratio, unevenness, rng):
    """Outliers in a share of the patches, on some images more than on others."""
    norms = norms.copy()
    rate = rng.gamma(1 / unevenness, share * PATCHES * unevenness, len(norms))
    for image, count in zip(norms, rng.poisson(rate), strict=True):
        marked = rng.permutation(PATCHES)[:count]
        image[marked] = np.exp(3) * ratio * rng.lognormal(0, 0.12, len(marked))
    return norms


def said_of(norms, detector):
    """What is said of images whose norms are the same in both blocks that are asked."""
    return power.power_of(np.repeat(counted(norms)[:, None], 2, axis=1), (PATCHES,) * 2, (0, 1), detector)


def edges_of(said, side):
    return said.detectable if side == "high" else said.below


def is_found(norms, side, detector):
    """The rule of the scan: all images together, then 80 % of the resamples; of fewer than four images, every one."""
    histograms = counted(norms)
    whole = detector(NormHistogram(histograms.sum(0)), side)
    if not whole.found:
        return False
    if len(norms) < MIN_IMAGES_FOR_CONFIDENCE:
        return bool((norms >= whole.threshold if side == "high" else norms < whole.threshold).any(1).all())
    return bootstrap(histograms[:, None], side, detector) >= MIN_CONFIDENCE


def is_a_bound(found):
    """Whether these draws are compatible with at least 80 % of all: not significantly fewer at a level of 1 %."""
    return binomtest(sum(found), len(found), power.POWER, "less").pvalue > 0.01


@pytest.mark.parametrize(
    ("images", "side"),
    [(12, "high"), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((30, "high"), (12, "low"), (30, "low")))],
)
def test_the_share_that_is_said_to_be_found_in_four_of_five_draws_is_found_at_least_so_often(images, side):
    rng = np.random.default_rng(images)
    said = said_of(bulk(images, rng), outliers.ratio)
    edge = edges_of(said, side)[2]

    def draws(share):
        drawn = (planted(bulk(images, rng), share, edge.ratio, said.unevenness, rng) for _ in range(60))
        return [is_found(norms, side, outliers.ratio) for norms in drawn]

    assert is_a_bound(draws(edge.share)), edge
    assert not is_a_bound(draws(edge.share / 5)), edge


@pytest.mark.slow
@pytest.mark.parametrize("side", ["high", "low"])
@pytest.mark.parametrize("effect", range(3))
def test_so_it_is_for_the_default_detector_and_every_ratio(effect, side):
    rng = np.random.default_rng(effect)
    said = said_of(bulk(12, rng), outliers.mixture)
    edge = edges_of(said, side)[effect]

    def draws(share):
        drawn = (planted(bulk(12, rng), share, edge.ratio, said.unevenness, rng) for _ in range(30))
        return [is_found(norms, side, outliers.mixture) for norms in drawn]

    assert is_a_bound(draws(edge.share)), edge
    assert not is_a_bound(draws(edge.share / 10)), edge


@pytest.mark.parametrize("images", [1, 2])
def test_nothing_is_promised_of_images_so_few_that_no_share_is_found_dependably(images):
    rng = np.random.default_rng(images)
    said = said_of(bulk(images, rng), outliers.ratio)
    assert [edge.share for edge in said.detectable] == [None, None, None]
    for share in (0.05, 0.1):
        drawn = (planted(bulk(images, rng), share, 6, said.unevenness, rng) for _ in range(100))
        assert sum(is_found(norms, "high", outliers.ratio) for norms in drawn) < 85


@pytest.mark.slow
def test_more_images_show_smaller_shares_and_larger_effects_need_fewer_tokens():
    rng = np.random.default_rng(0)
    said = [said_of(bulk(n, rng), outliers.mixture) for n in (8, 24, 96)]
    for side in ("high", "low"):
        shares = [[e.share for e in edges_of(each, side)] for each in said]
        assert shares[0][2] > shares[1][2] > shares[2][2]
        assert all(row[0] >= row[1] >= row[2] for row in shares if row[0] is not None)


def test_the_smallest_share_never_rises_with_the_number_of_images():
    rng = np.random.default_rng(0)
    shares = [said_of(bulk(n, rng), outliers.ratio).detectable[2].share for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 40)]
    stated = [share for share in shares if share is not None]
    assert shares == [None] * (len(shares) - len(stated)) + stated
    assert all(more <= few * power.GRID for few, more in pairwise(stated)), stated
    assert len(stated) >= 6


def test_each_side_is_asked_of_its_own_block():
    rng = np.random.default_rng(0)
    plain, wide = counted(bulk(24, rng)), counted(rng.lognormal(3, 0.5, (24, PATCHES)))
    high = power.power_of(np.stack([plain, wide], axis=1), (PATCHES,) * 2, (3, 5), outliers.mixture)
    low = power.power_of(np.stack([wide, plain], axis=1), (PATCHES,) * 2, (3, 5), outliers.mixture)
    assert (high.layer, high.below_layer) == (3, 5)
    assert high.detectable[1].share is not None
    assert low.below[1].share is not None
    assert high.below[0].share is None
    assert low.detectable[0].share is None


def test_the_cost_is_bounded_for_any_number_of_images():
    asked = []

    def detector(histogram, side):
        asked.append(histogram.total)
        return outliers.ratio(histogram, side)

    norms = np.repeat(counted(bulk(64, np.random.default_rng(0)))[:, None], 2, axis=1)
    for copies in (1, 10_000):
        asked.clear()
        power.power_of(norms * copies, (PATCHES,) * 2, (0, 0), detector)
        assert len(asked) <= 40 * len(power.RATIOS)


def record(*shares):
    return Power(
        layer=7,
        probability=0.8,
        unevenness=2.0,
        detectable=[Detectable(ratio=r, share=s) for r, s in zip(power.RATIOS, shares, strict=True)],
    )


@pytest.mark.parametrize(
    ("shares", "sentence", "confidence"),
    [
        (
            (0.002, 0.001, 0.001),
            "No artifacts were found: in these images no group of at least 0.20 % of the patches has unusual norms.",
            "high",
        ),
        (
            (0.03, 0.004, 0.003),
            "No artifacts were found, but 12 images can only exclude moderate and strong effects "
            "(0.40 % of the patches or more, at 3.5 times the median norm).",
            "fair",
        ),
        (
            (0.05, 0.03, 0.004),
            "No artifacts were found, but 12 images can only exclude strong effects "
            "(0.40 % of the patches or more, at 6 times the median norm).",
            "low",
        ),
        ((None, None, 0.1), "No artifacts were found, but 12 images are too few to exclude even strong effects", "low"),
    ],
)
def test_none_from_few_images_says_what_it_can_exclude_and_is_not_called_sure(shares, sentence, confidence):
    said = none([], 1.0, 12, record(*shares))
    assert said.sentence.startswith(sentence)
    assert words.confidence(said) == confidence
    assert any("needs fixing" in line for line in said.advice) == (confidence == "high")
    assert said.power.excludes("strong") == (shares[2] <= 0.023)


def test_an_effect_is_excluded_only_if_it_would_have_shown_on_both_sides():
    below = [Detectable(ratio=1 / r, share=s) for r, s in zip(power.RATIOS, (None, 0.03, 0.012), strict=True)]
    both = record(0.002, 0.001, 0.001).model_copy(update={"below": below})
    assert [both.excludes(strength) for strength in ("mild", "moderate", "strong")] == [False, False, True]
    said = none([], 1.0, 12, both)
    assert "can only exclude strong effects (1.2 % of the patches or more, at 6 or 0.167 times" in said.sentence
    assert "0.10 % at 3.5 times; 3.0 % of the patches at 0.286 times the median norm, 1.2 % at 0.167" in said.reason
