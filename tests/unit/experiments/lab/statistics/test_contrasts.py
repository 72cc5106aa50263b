"""Intervals over seeds against SciPy and against the definition; planted differences are found, and none where there is none."""

import itertools

import numpy as np
import pytest
from scipy import stats

from vitreg.experiments.lab.statistics.contrasts import contrast, exact_p, holm, mean_interval


@pytest.mark.parametrize(("many", "others"), [(4, 8), (8, 8), (2, 3)])
def test_a_difference_of_two_groups_is_welchs(many, others):
    draw = np.random.default_rng(many)
    one, other = draw.normal(1.0, 0.3, many), draw.normal(0.0, 2.0, others)
    found = contrast([one, other], [1, -1])
    theirs = stats.ttest_ind(one, other, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(theirs.pvalue)


def test_the_mean_of_one_group_is_students():
    values = [1.0, 2.0, 4.0, 3.0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((2.5, low, high))


def test_the_exact_test_is_scipys():
    draw = np.random.default_rng(0)
    for many, others in ((4, 4), (4, 8), (3, 5)):
        one, other = draw.normal(0.8, 1, many).round(1), draw.normal(0, 1, others).round(1)
        theirs = stats.permutation_test(
            (one, other), lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)), vectorized=True, n_resamples=np.inf,
            alternative="greater",
        )  # fmt: skip
        assert exact_p(list(one), list(other)) == pytest.approx(theirs.pvalue)
    assert exact_p([1.0] * 4, [0.0] * 4) == pytest.approx(2 / 70)
    assert exact_p([], [1.0]) is None
    assert exact_p([0.0] * 12, [1.0] * 12) is None  # 2.7 million divisions


def test_holm_is_the_closed_test_of_bonferroni():
    """A row is decided at a level exactly if Bonferroni's test refuses every set of rows that it is in."""
    ps = [0.011, 0.02, 0.004, 0.3, 0.0125]
    for place, adjusted in enumerate(holm(ps)):
        sets = [
            rows
            for size in range(1, 6)
            for rows in itertools.combinations(range(5), size)
            if place in rows
        ]  # fmt: skip
        assert adjusted == pytest.approx(max(min(1.0, len(rows) * min(ps[row] for row in rows)) for rows in sets))
    assert holm([None, 0.01, None]) == [None, 0.01, None]
    assert holm([]) == []


def test_a_planted_difference_is_found_and_none_where_there_is_none():
    """Of 400 tables without any difference about a twentieth has a row below 0.05; a difference of 4 spreads is found."""
    draw = np.random.default_rng(3)
    wrong, found, inside = 0, 0, 0
    for _ in range(400):
        base = draw.normal(size=8)
        rows = [contrast([draw.normal(size=4), base], [1, -1]).p for _ in range(6)]
        wrong += min(holm(rows)) < 0.05
        planted = contrast([draw.normal(4, 1, 8), draw.normal(size=8)], [1, -1])
        found += holm([planted.p, *rows])[0] < 0.05
        inside += planted.low <= 4 <= planted.high
    assert wrong <= 32  # 20 are expected at most, and 32 are exceeded by chance in 1 of 200 suites
    assert found > 380
    assert 368 <= inside <= 392


def test_an_average_of_differences_has_the_spread_of_all_its_groups():
    draw = np.random.default_rng(5)
    groups = [draw.normal(mean, 1.0, 200) for mean in (3.0, 1.0, 5.0, 1.0)]
    found = contrast(groups, [0.5, -0.5, 0.5, -0.5])
    assert found.value == pytest.approx(3.0, abs=0.25)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(4 * 0.25 / 200), rel=0.1)


def test_equal_values_show_no_spread_but_their_rounding():
    assert contrast([[1.0, 1.0], [0.0, 0.0]], [1, -1]).p is None
    assert contrast([[1.0], [0.0, 0.1]], [1, -1]).low is None
    assert mean_interval([0.1] * 3 + [0.1 + 1e-17] * 3).low is None
    found = contrast([[250.0] * 4, [500.0] * 4], [1, -1], rounding=250)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 6) * 250 / np.sqrt(12) * np.sqrt(2 / 4))
