import numpy as np
import pytest
from scipy.stats import binomtest

from vitreg.analysis.intervals import paired_difference, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (20, 20), (31, 80), (1, 1), (0, 1), (12, 225)])
def test_the_interval_of_a_share_is_wilsons(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    low, high = wilson(hits, count)
    assert low < high


def test_the_interval_of_a_difference_is_bonett_and_prices():
    differences = np.repeat([0.0, 1.0, -1.0, 0.0], [1, 12, 3, 9])
    more, less = 13 / 27, 4 / 27
    half = 1.96 * np.sqrt((more + less - (more - less) ** 2) / 27)
    assert paired_difference(differences) == pytest.approx((more - less - half, more - less + half), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_pairs_that_all_agree_leave_an_interval(value):
    low, high = paired_difference(np.full(20, value))
    assert -1 <= low < high <= 1
    assert low <= value <= high


def test_no_interval_comes_from_nothing():
    for wrong in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="hits of"):
            wilson(*wrong)
    with pytest.raises(ValueError, match="no trial"):
        paired_difference(np.zeros(0))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_intervals_hold_the_truth_about_as_often_as_they_say(share):
    draw = np.random.default_rng(0)
    ends = np.array([wilson(int(hits), 40) for hits in draw.binomial(40, share, 2000)])
    assert 0.9 < ((ends[:, 0] <= share) & (share <= ends[:, 1])).mean() <= 1
    pairs = draw.choice([-1.0, 0.0, 1.0], p=[share / 4, 1 - share, 3 * share / 4], size=(2000, 40))
    ends = np.array([paired_difference(each) for each in pairs])
    assert 0.9 < ((ends[:, 0] <= share / 2) & (share / 2 <= ends[:, 1])).mean() <= 1
