"""Ratios of sums and their intervals: the naive loop, paired resamples, images that say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vitreg.analysis.paired import Sums, interval, paired_change, resamples


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
