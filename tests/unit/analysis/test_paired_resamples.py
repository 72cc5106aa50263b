"""Ratios of sums and their intervals: the naive loop, paired resamples, images that say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vitreg.analysis.intervals import wilson
from vitreg.analysis.paired import (
    Sums,
    effective_tokens,
    interval,
    paired_change,
    resamples,
    tokens_difference,
    tokens_interval,
)


def sums(seed: int, n: int = 30) -> Sums:
    draw = np.random.default_rng(seed)
    return Sums(draw.integers(0, 9, n).astype(float), draw.integers(9, 20, n).astype(float))


def test_a_resample_is_the_ratio_over_its_images() -> None:
    made, weights = sums(0), resamples(30, 5, seed=1)
    for row, value in zip(weights, made.over(weights), strict=True):
        drawn = np.repeat(np.arange(30), row)
        assert len(drawn) == 30
        assert value == pytest.approx(made.numerators[drawn].sum() / made.denominators[drawn].sum())


def test_equal_models_differ_by_exactly_nothing_and_noise_they_share_cancels() -> None:
    made, weights = sums(0), resamples(30)
    assert paired_change(made, made, weights) == (0.0, (0.0, 0.0))
    shifted = Sums(made.numerators + 0.1 * made.denominators, made.denominators)
    change, ends = paired_change(made, shifted, weights)
    assert change == pytest.approx(0.1)
    assert ends == pytest.approx((0.1, 0.1))
    low, high = interval(made.over(weights)) or (0, 0)
    assert high - low > 0.05


def test_the_interval_covers_the_truth_about_95_times_in_a_hundred() -> None:
    held = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(3, 1, 60)
        ends = interval(Sums(values, np.ones(60)).over(resamples(60, 400, seed)))
        assert ends is not None
        held += ends[0] <= 3 <= ends[1]
    assert 180 <= held <= 198


def test_images_that_say_nothing_give_no_number() -> None:
    nothing = Sums(np.zeros(6), np.zeros(6))
    assert math.isnan(nothing.value)
    assert interval(nothing.over(resamples(6))) is None
    one = Sums(np.array([2.0, 0, 0, 0]), np.array([1.0, 0, 0, 0]))
    assert one.value == 2


def test_several_classes_are_the_mean_of_their_ratios_without_those_that_nobody_has() -> None:
    draw = np.random.default_rng(0)
    below = draw.integers(1, 9, (6, 3)).astype(float)
    below[:, 2] = 0
    above = np.floor(below * draw.random((6, 3)))
    made = Sums(above, below)
    wanted = [above[:, c].sum() / below[:, c].sum() for c in (0, 1)]
    assert made.value == pytest.approx(np.mean(wanted))
    weights = resamples(6, 4)
    for row, value in zip(weights, made.over(weights), strict=True):
        drawn = np.repeat(np.arange(6), row)
        assert value == pytest.approx(np.mean([above[drawn, c].sum() / below[drawn, c].sum() for c in (0, 1)]))
    assert math.isnan(Sums(above[:, 2:], below[:, 2:]).value)


def test_none_of_many_tokens_has_an_interval_and_tokens_that_come_together_count_as_fewer() -> None:
    images, tokens = 50, 100
    weights, all_of_them = resamples(images), np.full(images, float(tokens))
    gone = Sums(np.zeros(images), all_of_them)
    apart = Sums(np.random.default_rng(0).binomial(tokens, 0.02, images).astype(float), all_of_them)
    together = Sums(np.where(np.arange(images) % 10 == 0, 20.0, 0.0), all_of_them)
    assert interval(gone.over(weights)) == (0, 0)
    assert tokens_interval(gone, gone, weights) == wilson(0, images * tokens)
    assert effective_tokens(apart, weights) == pytest.approx(images * tokens, rel=0.4)
    # Whole bunches of 20: about a twentieth of the tokens vary by themselves.
    assert effective_tokens(together, weights) == pytest.approx(images * tokens / 20, rel=0.4)
    assert tokens_interval(gone, together, weights)[1] > 10 * tokens_interval(gone, apart, weights)[1]
    low, high = tokens_difference(together, together, weights)
    assert low < 0 < high < 0.02
