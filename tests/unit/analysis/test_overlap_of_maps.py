"""How much the attention maps of registers overlap, against the loop of the docstring and against known pairs."""

import numpy as np
import pytest
import torch

from vitreg.analysis.maps import overlap


def test_the_loop():
    maps = np.random.default_rng(0).random((4, 5, 6))
    whole = maps / maps.sum((1, 2), keepdims=True)
    expected = np.mean([np.minimum(whole[i], whole[j]).sum() for i in range(4) for j in range(i)])
    assert overlap(torch.as_tensor(maps)) == pytest.approx(expected)


def test_ranges_do_not_matter_and_missing_patches_are_left_out():
    maps = torch.rand(1, 4, 4).repeat(3, 1, 1)
    maps[1] = 5 * maps[1]
    maps[0, 0, 0] = torch.nan
    assert overlap(maps) == pytest.approx(1.0, abs=1e-6)
    apart = torch.zeros(2, 2, 2)
    apart[0, 0], apart[1, 1] = 1.0, 1.0
    assert overlap(apart) == 0


def test_shares_of_keys_that_hardly_differ_overlap():
    """Slots share every key out, so their maps are anticorrelated by construction, however little they differ: no sign of parting."""
    shares = (0.01 * torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(0)
    assert np.corrcoef(shares.flatten(1))[0, 1:].mean() < -0.3
    assert overlap(shares) > 0.99


@pytest.mark.parametrize("maps", [torch.rand(1, 3, 3), torch.zeros(3, 3, 3), torch.full((2, 2, 2), torch.nan)])
def test_nothing_is_said_without_two_maps_that_hold_something(maps):
    assert overlap(maps) is None
