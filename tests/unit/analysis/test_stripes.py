"""The gradient that a resampled position table gives back: values of the official settings, and a resampler by hand."""

import pytest
import torch

from vitreg.analysis.stripes import column_profile, stripes, table_gradient
from vitreg.models.posembed import resample_positions

OFFICIAL = [0.358, 0.742, -0.001, 0.970, -0.145, 0.963, 0.015, 0.723, 0.381, 0.336, 0.760, -0.016, 0.976, -0.144, 0.955, 0.126]  # fmt: skip
BY_SIZE = [0.341, 0.766, -0.050, 0.989, -0.145, 0.909, 0.124, 0.567]
SMOOTH = [0.361, 0.492, 0.470, 0.432, 0.433, 0.438, 0.438, 0.437]


def close(profile, expected):
    return torch.allclose(profile, torch.tensor(expected, dtype=torch.float64), atol=6e-4)


def test_dinos_offset_leaves_uneven_stripes():
    profile = column_profile(16, 7, antialias=False, offset=0.1)
    assert close(profile, OFFICIAL)
    found = stripes(table_gradient((16, 16), (7, 7), antialias=False, offset=0.1))
    assert (found.minimum, found.maximum, found.std) == pytest.approx((-0.141, 0.953, 0.311), abs=6e-4)


@pytest.mark.parametrize(
    ("antialias", "half", "numbers"), [(False, BY_SIZE, (-0.144, 0.978, 0.304)), (True, SMOOTH, (0.131, 0.242, 0.022))]
)
def test_stripes_come_from_the_missing_antialias(antialias, half, numbers):
    profile = column_profile(16, 7, antialias=antialias)
    assert close(profile, half + half[::-1])
    gradient = table_gradient((16, 16), (7, 7), antialias=antialias)
    torch.testing.assert_close(gradient, torch.outer(profile, profile))
    found = stripes(gradient)
    assert (found.minimum, found.maximum, found.std) == pytest.approx(numbers, abs=6e-4)


def test_an_offset_with_antialias_is_flat_but_for_its_last_column():
    profile = column_profile(16, 7, antialias=True, offset=0.1)
    assert profile[-1].item() == pytest.approx(0.295, abs=6e-4)
    assert profile[2:-1].std() < 0.02


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize(("source", "target"), [((16, 16), (7, 7)), ((14, 14), (6, 6)), ((6, 9), (3, 4))])
def test_the_mean_is_the_share_of_positions(antialias, offset, source, target):
    found = stripes(table_gradient(source, target, antialias=antialias, offset=offset))
    assert found.mean == pytest.approx(target[0] * target[1] / (source[0] * source[1]))


def test_enlarging_gives_every_inner_position_the_same():
    inner = table_gradient((7, 7), (14, 14), antialias=False)[2:-2, 2:-2]
    assert inner.std() < 1e-6


def test_it_is_the_gradient_of_the_resampling_that_our_models_use():
    table = torch.randn(16 * 16, 3, requires_grad=True)
    resample_positions(table, (16, 16), (7, 5)).sum().backward()
    expected = table_gradient((16, 16), (7, 5), antialias=True).flatten()
    assert table.grad is not None
    torch.testing.assert_close(table.grad[:, 1].double(), expected, atol=1e-5, rtol=1e-5)


def test_an_offset_that_leads_elsewhere_is_a_mistake():
    with pytest.raises(ValueError, match="leads to"):
        table_gradient((16, 16), (7, 7), antialias=True, offset=1.0)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("grid", [(16, 16), (7, 5), (1, 1)])
def test_a_table_of_the_same_grid_is_not_resampled(antialias, offset, grid):
    gradient = table_gradient(grid, grid, antialias=antialias, offset=offset)
    assert torch.equal(gradient, torch.ones(grid, dtype=torch.float64))
    assert torch.equal(column_profile(9, 9, antialias=antialias, offset=offset), torch.ones(9, dtype=torch.float64))
