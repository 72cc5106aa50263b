import itertools

import numpy as np
import pytest
import torch

from vitreg.discovery.chance import LEVEL, _neighbours, alike, border_by_chance, strewn


def border(part):
    return int((part[1:] != part[:-1]).sum() + (part[:, 1:] != part[:, :-1]).sum())


@pytest.mark.parametrize(("grid", "inside"), [((2, 3), 2), ((3, 4), 5), ((1, 7), 3), ((4, 4), 1), ((2, 2), 2)])
def test_mean_and_variance_of_the_border_are_those_of_all_placements(grid, inside):
    count = grid[0] * grid[1]
    borders = []
    for chosen in itertools.combinations(range(count), inside):
        part = np.zeros(count, dtype=bool)
        part[list(chosen)] = True
        borders.append(border(part.reshape(grid)))
    found = border_by_chance(_neighbours(np.ones(grid, dtype=bool)), count, inside)
    assert found == pytest.approx((np.mean(borders), np.var(borders)))


def test_a_part_in_one_piece_is_not_strewn_and_one_of_single_patches_is():
    part = np.zeros((14, 14), dtype=bool)
    part[5:7, 8:10] = True
    assert not strewn(part)
    assert not strewn(~part)
    lattice = np.indices((14, 14)).sum(0) % 2 == 0
    single = np.zeros((14, 14), dtype=bool)
    single[3, 4] = True
    for other in (lattice, single, single ^ single, ~(single ^ single)):
        assert strewn(other)


def test_patches_in_random_places_pass_at_the_level_and_no_more():
    draw, count = np.random.default_rng(0), 2000
    passed = sum(not strewn(draw.permutation(np.arange(80) < 25).reshape(8, 10)) for _ in range(count))
    assert passed <= count * LEVEL + 4 * (count * LEVEL) ** 0.5


def test_patches_that_do_not_count_are_no_neighbours():
    among = np.ones((10, 12), dtype=bool)
    among[:, 4:8] = False
    part = np.zeros((10, 12), dtype=bool)
    part[2:5, 1:4] = True
    assert not strewn(part, among)
    assert len(_neighbours(among)) == 2 * (9 * 4 + 10 * 3)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_alike_is_what_differs_by_the_rounding_of_float32_whatever_its_size(scale):
    x = scale * torch.linspace(1, 2, 24).repeat(100, 1)
    assert alike(x)
    assert alike(x * (1 + torch.finfo(torch.float32).eps * torch.arange(100)[:, None].remainder(3)))
    assert alike(0 * x)
    assert not alike(x * (1 + 1e-3 * torch.arange(100)[:, None].remainder(3)))
    assert not alike(x * torch.arange(100)[:, None].eq(7))
