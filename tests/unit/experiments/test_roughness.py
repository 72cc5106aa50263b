"""Peaks, roughness and standing out of maps, against loops and on maps whose answer is known."""

from itertools import product

import numpy as np
import pytest

from vitreg.experiments.maps.roughness import lone_peaks, roughness, standing_out


@pytest.fixture
def maps():
    return np.random.default_rng(0).gamma(0.5, size=(3, 6, 9))


def test_peaks_are_those_of_a_loop(maps):
    n, rows, cols = maps.shape
    found, cells = lone_peaks(maps), list(product(range(rows), range(cols)))
    for i, (r, c) in product(range(n), cells):
        around = [maps[i, y, x] for y, x in cells if abs(y - r) <= 2 and abs(x - c) <= 2 and (y, x) != (r, c)]
        near = [value for value in around if value > maps[i, r, c] / 4]
        peak = len(near) <= len(around) / 4 and maps[i, r, c] >= 2 * maps[i].mean()
        assert found[i, r, c] == peak
    assert 0 < found.sum() < found.size


def test_a_clump_of_outliers_is_made_of_peaks_and_an_object_is_not():
    """Sixteen patches of high attention: apart in twos, or together."""
    scattered, together = np.full((2, 14, 14), 1e-3)
    scattered[1::4, 1:14:6] = scattered[1::4, 2:14:6] = 0.05
    together[4:9, 5:10] = 0.05
    assert lone_peaks(scattered[None]).sum() == (scattered > 0.01).sum()
    assert not lone_peaks(together[None]).any()
    assert not lone_peaks(np.ones((1, 8, 8))).any()
    assert not lone_peaks(np.full((1, 8, 8), np.nan)).any()


def test_patches_that_are_gone_are_no_peaks_and_hide_none():
    values = np.ones((1, 8, 8))
    values[0, 3, 3], values[0, 3, 4] = 30.0, np.nan
    assert lone_peaks(values).nonzero() == (np.array([0]), np.array([3]), np.array([3]))


def test_roughness_is_that_of_a_loop(maps):
    rows, cols = maps.shape[1:]
    pairs = [((r, c), (r + 1, c)) for r in range(rows - 1) for c in range(cols)]
    pairs += [((r, c), (r, c + 1)) for r in range(rows) for c in range(cols - 1)]
    for each, value in zip(maps, roughness(maps), strict=True):
        assert value == pytest.approx(np.mean([(each[a] - each[b]) ** 2 for a, b in pairs]) / (2 * each.var(ddof=1)))


def test_noise_is_rough_and_a_slope_is_not():
    noise, slope = np.random.default_rng(1).normal(size=(1, 40, 40)), np.arange(40.0)[None, None] + np.zeros((1, 40, 1))
    assert roughness(noise)[0] == pytest.approx(1, abs=0.05)
    assert roughness(slope)[0] < 0.01
    assert roughness(7 + 3 * noise) == pytest.approx(roughness(noise))  # neither shift nor scale counts
    assert np.isnan(roughness(np.ones((1, 4, 4)))[0])


def test_standing_out_is_that_of_a_loop(maps):
    maps = np.round(maps, 1)  # with ties
    marked = np.random.default_rng(2).random(maps.shape) < 0.2
    for each, mine, value in zip(maps, marked, standing_out(maps, marked), strict=True):
        wins = [(a > b) + 0.5 * (a == b) for a in each[mine] for b in each[~mine]]
        assert value == pytest.approx(np.mean(wins))
    assert np.isnan(standing_out(maps[:1], np.zeros((1, 6, 9), dtype=bool))[0])
