import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitreg.discovery.boxes import iou
from vitreg.discovery.chance import NO_CUT, STREWN
from vitreg.discovery.spectrum import second_eigenvector
from vitreg.discovery.tokencut import _cut, _linked, maskcut, tokencut


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


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_neither_length_nor_rotation_of_features_matters(seed, length):
    grid, draw = (7, 11), torch.Generator().manual_seed(seed)
    x = scene(grid, (2, 6, 5, 9), (0, 0, 2, 4), noise=0.1).double()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw, dtype=torch.float64))[0]
    lengths = length * (1 + torch.rand(77, 1, generator=draw, dtype=torch.float64))
    found, other = tokencut(x, grid), tokencut(lengths * (x @ turn), grid)
    assert (other.box, other.seed) == (found.box, found.seed)
    torch.testing.assert_close(other.eigenvector, found.eigenvector, rtol=0, atol=1e-9)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (4, 5), (12, 13), (28, 28)])
@pytest.mark.parametrize("kind", ["zero", "same", "alike", "unlike"])
def test_without_structure_there_is_no_cut(grid, kind):
    """All patches are linked, or none: every vector is an eigenvector, and a solver's choice is its rounding."""
    count = grid[0] * grid[1]
    x = torch.zeros(count, 4) if kind == "zero" else torch.ones(count, 4)
    if kind == "alike":
        x += 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    if kind == "unlike":
        x = torch.eye(count)
    for found in (tokencut(x, grid), *maskcut(x, grid)):
        assert (found.box, found.seed, found.gap) == (None, None, 0)
        assert not found.mask.any()
        assert not found.eigenvector.any()
    assert len(maskcut(x, grid)) == 1


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5])
def test_links_in_random_places_are_no_cut(share):
    grid, draw = (15, 20), np.random.default_rng(0)
    for _ in range(5):
        links = np.triu(draw.random((300, 300)) < share, 1)
        assert _cut(links | links.T | np.eye(300, dtype=bool), np.ones(300, dtype=bool), grid, 1e-5).box is None


@pytest.mark.parametrize("width", [24, 64, 192, 768])
def test_noise_has_no_cut(width):
    """A threshold on cosines of noise is no graph of random links: its eigenvalue lies beyond Wigner's semicircle."""
    boxes = 0
    for seed in range(40):
        found = tokencut(torch.randn(196, width, generator=torch.Generator().manual_seed(seed)), (14, 14))
        boxes += found.box is not None
        assert found.nothing in ("" if found.box else NO_CUT, "" if found.box else STREWN)
        assert found.gap > 0 or not found.box
    assert boxes <= 3  # 1 of 100 is let through: more than 3 of 40 have a chance of 1 in 1000


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_an_object_in_a_common_ground_is_a_cut_with_a_gap(noise):
    grid, box = (20, 24), (4, 5, 12, 15)
    x = scene(grid, box, noise=noise)
    x[:, 7] = 0.35  # what all patches share
    found = tokencut(x, grid)
    assert found.gap > 0.1
    assert iou(torch.tensor([found.box]), torch.tensor([box])) >= 0.5


@pytest.mark.parametrize(("rows", "cols"), [(5, 7), (12, 16), (28, 28)])
@pytest.mark.parametrize("kind", ["objects", "noise"])
def test_cut_and_gap_are_those_of_the_dense_solver(rows, cols, kind):
    count, draw = rows * cols, torch.Generator().manual_seed(rows)
    x = scene((rows, cols), (1, 1, 3, 4), (3, 4, 5, 7), noise=0.25) if kind == "objects" else None
    x = torch.randn(count, 24, generator=draw) + 0.5 * torch.randn(24, generator=draw) if x is None else x
    links = _linked(x.double(), (rows, cols), 0.2, 1e-5)
    found = second_eigenvector(links, 1e-5)
    weights = np.where(links, 1.0, 1e-5)
    degrees = np.diag(weights.sum(1))
    values, vectors = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[0, 2])
    assert (found.value, found.gap) == pytest.approx((values[1], values[2] - values[1]), abs=1e-10)
    sign = np.sign(vectors[:, 1] @ found.vector)
    assert np.abs(sign * found.vector - vectors[:, 1]).max() < 1e-9 / found.gap


def test_an_eigenvalue_that_is_there_twice_has_no_gap():
    """Three equal groups without links between them: two of the cuts are equally good, whatever the iteration meets."""
    links = np.kron(np.eye(3), np.ones((50, 50))) > 0
    assert second_eigenvector(links, 1e-5).gap < 1e-9
    assert tokencut(torch.eye(3).repeat_interleave(50, 0), (10, 15)).box is None


def test_maskcut_finds_several_objects_that_do_not_overlap():
    grid, boxes = (12, 14), [(1, 1, 4, 4), (6, 2, 10, 6), (2, 8, 9, 12)]
    found = maskcut(scene(grid, *boxes, noise=0.02), grid)
    assert len(found) == 3
    assert set(boxes[:2]) < {each.box for each in found}
    assert torch.stack([each.mask for each in found]).sum(0).max() == 1
    assert found[0].box == tokencut(scene(grid, *boxes, noise=0.02), grid, tau=0.15).box
    assert not found[1].eigenvector[found[0].mask].any()


def test_maskcut_ends_when_nothing_is_left():
    grid = (12, 14)
    found = maskcut(scene(grid, (1, 1, 4, 4), (6, 2, 10, 6)), grid, masks=9)
    assert 2 <= len(found) < 9
    assert all(each.box is not None for each in found)
    assert torch.stack([each.mask for each in found]).sum(0).max() == 1


def test_what_does_not_fit_is_refused():
    x = torch.ones(12, 3)
    with pytest.raises(ValueError, match="a 3x5 grid holds 15 patches, not 12"):
        tokencut(x, (3, 5))
    with pytest.raises(ValueError, match="above 0"):
        tokencut(x, (3, 4), eps=0.0)
    x[4, 1] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        maskcut(x, (3, 4))
