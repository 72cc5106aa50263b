"""What a scan says it could have shown is what it finds when that is really there."""

import numpy as np
import pytest
from scipy.stats import binomtest

from vitreg.analysis import outliers, power
from vitreg.analysis.absence import excludes, none
from vitreg.analysis.norms import BINS, NormHistogram, encode, to_bin
from vitreg.analysis.resampling import MIN_CONFIDENCE, bootstrap
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


def is_found(norms):
    histograms = counted(norms)
    if not outliers.mixture(NormHistogram(histograms.sum(0)), "high").found:
        return False
    return bootstrap(histograms[:, None], "high", outliers.mixture) >= MIN_CONFIDENCE


def is_a_bound(found):
    """Whether these draws are compatible with at least 80 % of all: not significantly fewer at a level of 1 %."""
    return binomtest(sum(found), len(found), power.POWER, "less").pvalue > 0.01


@pytest.mark.parametrize("images", [12, 30])
def test_the_share_that_is_said_to_be_found_in_four_of_five_draws_is_found_at_least_so_often(images):
    rng = np.random.default_rng(images)
    said = power.power_of(counted(bulk(images, rng)), PATCHES, 0, outliers.ratio)
    for effect in said.detectable[2:]:
        assert is_a_bound([is_found_by_ratio(images, effect, said.unevenness, rng) for _ in range(100)]), effect
        less = effect.model_copy(update={"share": effect.share / 5})
        assert not is_a_bound([is_found_by_ratio(images, less, said.unevenness, rng) for _ in range(100)]), less


def is_found_by_ratio(images, effect, unevenness, rng):
    histograms = counted(planted(bulk(images, rng), effect.share, effect.ratio, unevenness, rng))
    if not outliers.ratio(NormHistogram(histograms.sum(0)), "high").found:
        return False
    return bootstrap(histograms[:, None], "high", outliers.ratio) >= MIN_CONFIDENCE


@pytest.mark.slow
@pytest.mark.parametrize("effect", range(3))
def test_so_it_is_for_the_default_detector_and_every_ratio(effect):
    rng = np.random.default_rng(effect)
    said = power.power_of(counted(bulk(12, rng)), PATCHES, 0, outliers.mixture)
    edge = said.detectable[effect]

    def draws(share):
        return [is_found(planted(bulk(12, rng), share, edge.ratio, said.unevenness, rng)) for _ in range(40)]

    assert is_a_bound(draws(edge.share)), edge
    assert not is_a_bound(draws(edge.share / 5)), edge


def test_more_images_show_smaller_shares_and_larger_effects_need_fewer_tokens():
    rng = np.random.default_rng(0)
    shares = [
        [e.share for e in power.power_of(counted(bulk(n, rng)), PATCHES, 0, outliers.mixture).detectable]
        for n in (6, 24, 96)
    ]
    assert shares[0][2] > shares[1][2] > shares[2][2]
    assert all(row[0] >= row[2] for row in shares)


def test_the_cost_is_bounded_for_any_number_of_images():
    asked = []

    def detector(histogram, side):
        asked.append(histogram.total)
        return outliers.ratio(histogram, side)

    for copies in (1, 10_000):
        asked.clear()
        power.power_of(counted(bulk(64, np.random.default_rng(0))) * copies, PATCHES, 0, detector)
        assert len(asked) <= 40 * len(power.RATIOS)


def test_one_image_can_show_what_it_holds_and_no_image_has_no_power():
    one = power.power_of(counted(bulk(1, np.random.default_rng(0))), PATCHES, 0, outliers.mixture)
    assert one.detectable[2].share is None or one.detectable[2].share > 0.01


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
        ((0.002, 0.001, 0.001), "No artifacts were found: in these images", "high"),
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
    assert any("Nothing needs fixing" in line for line in said.advice) == (confidence == "high")
    assert excludes(said.power, "strong") == (shares[2] <= 0.023)
