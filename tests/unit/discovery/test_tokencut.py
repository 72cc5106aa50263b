import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitreg.discovery.tokencut import maskcut, tokencut


def scene(grid, *rectangles, noise=0.0):
    """A direction of its own for the background and for each rectangle (row0, col0, row1, col1)."""
    kind = torch.zeros(grid, dtype=torch.long)
    for which, (row0, col0, row1, col1) in enumerate(rectangles, start=1):
        kind[row0:row1, col0:col1] = which
    x = torch.eye(8)[kind.flatten()]
    return x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("grid", "box"),
    [((7, 11), (2, 6, 5, 9)), ((1, 40), (0, 7, 1, 12)), ((40, 1), (7, 0, 12, 1)), ((15, 13), (4, 2, 9, 12))],
)
def test_the_smaller_of_two_halves_is_the_object(grid, box):
    found = tokencut(scene(grid, box), grid)
    assert found.box == box
    assert found.seed == box[0] * grid[1] + box[1]  # all of its patches are tied: the first
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    assert torch.equal(found.mask, inside)
    assert (found.eigenvector[inside] > 0).all()
    assert (found.eigenvector[~inside] < 0).all()


def test_what_is_alike_but_apart_is_left_out():
    grid = (9, 9)
    x = scene(grid, (1, 1, 4, 4))
    x.view(9, 9, 8)[6:8, 6:8] = x[10]
    assert tokencut(x, grid).box == (1, 1, 4, 4)


def test_tau_decides_what_is_alike():
    grid = (6, 6)
    x = scene(grid, (1, 1, 4, 4))
    x[:, 7] = 1.0  # cosine of object and background: 1/2
    assert tokencut(x, grid, tau=0.6).box == (1, 1, 4, 4)
    assert (tokencut(x, grid, tau=0.6).eigenvector.unique().diff() > 0.1).sum() == 1
    assert tokencut(x, grid, tau=0.4).eigenvector.abs().max() != pytest.approx(
        tokencut(x, grid, tau=0.6).eigenvector.abs().max().item()
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_neither_length_nor_rotation_of_features_matters(seed, length):
    grid, draw = (7, 11), torch.Generator().manual_seed(seed)
    x = scene(grid, (2, 6, 5, 9), (0, 0, 2, 4), noise=0.1).double()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw, dtype=torch.float64))[0]
    lengths = length * (1 + torch.rand(77, 1, generator=draw, dtype=torch.float64))
    found, other = tokencut(x, grid), tokencut(lengths * (x @ turn), grid)
    assert (other.box, other.seed) == (found.box, found.seed)
    torch.testing.assert_close(other.eigenvector, found.eigenvector, rtol=0, atol=1e-9)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (4, 5), (12, 13)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_structure_some_patch_is_cut_off_and_always_the_same(grid, value):
    x = torch.full((grid[0] * grid[1], 4), value)
    found, again = tokencut(x, grid), tokencut(x, grid)
    row0, col0, row1, col1 = found.box
    assert 0 <= row0 < row1 <= grid[0]
    assert 0 <= col0 < col1 <= grid[1]
    assert found.mask.flatten()[found.seed]
    assert found.eigenvector.isfinite().all()
    assert (again.box, again.seed) == (found.box, found.seed)


def test_maskcut_finds_several_objects_that_do_not_overlap():
    grid, boxes = (12, 14), [(1, 1, 4, 4), (6, 2, 10, 6), (2, 8, 9, 12)]
    found = maskcut(scene(grid, *boxes, noise=0.02), grid)
    assert len(found) == 3
    assert set(boxes[:2]) < {each.box for each in found}
    assert torch.stack([each.mask for each in found]).sum(0).max() == 1
    assert found[0].box == tokencut(scene(grid, *boxes, noise=0.02), grid, tau=0.15).box
    assert not found[1].eigenvector[found[0].mask].any()


def test_maskcut_ends_when_nothing_is_left():
    found = maskcut(torch.eye(4), (2, 2), masks=9)
    assert 1 <= len(found) <= 4
    taken = torch.stack([each.mask for each in found]).sum(0)
    assert taken.max() == 1
    assert int(taken.sum()) >= 3
    assert len(maskcut(torch.ones(1, 3), (1, 1))) == 1


def test_what_does_not_fit_is_refused():
    x = torch.ones(12, 3)
    with pytest.raises(ValueError, match="a 3x5 grid holds 15 patches, not 12"):
        tokencut(x, (3, 5))
    with pytest.raises(ValueError, match="above 0"):
        tokencut(x, (3, 4), eps=0.0)
    x[4, 1] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        maskcut(x, (3, 4))
