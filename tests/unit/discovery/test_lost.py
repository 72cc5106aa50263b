import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitreg.discovery.boxes import enclosing, to_pixels
from vitreg.discovery.chance import ALIKE
from vitreg.discovery.features import NORMALIZE, automatic_bias, prepare
from vitreg.discovery.lost import degrees, lost, lost_batch


def scene(grid, inside, background=(1.0, 0.0), thing=(-0.5, 1.0)):
    """One feature for the background, one for a rectangle (row0, col0, row1, col1)."""
    x = torch.tensor(background).repeat(*grid, 1)
    x[inside[0] : inside[2], inside[1] : inside[3]] = torch.tensor(thing)
    return x.flatten(0, 1)


whole_numbers = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 5)).flatmap(
    lambda s: st.tuples(
        st.just(s[:2]), arrays(np.float32, (s[0] * s[1], s[2]), elements=st.integers(-3, 3).map(np.float32))
    )
)
"""Grids with features of small whole numbers: their products are exact, so that equal means equal."""


def test_an_object_is_found_on_a_grid_that_is_not_square():
    found = lost(scene((5, 9), (1, 6, 4, 8)), (5, 9))
    assert found.box == (1, 6, 4, 8)
    assert not found.by_chance
    assert found.seed == 1 * 9 + 6  # the first of six patches tied
    assert found.degree[1, 6] == 5
    assert found.degree[0, 0] == 38
    assert sorted(found.similars.tolist()) == [r * 9 + c for r in (1, 2, 3) for c in (6, 7)]
    assert found.gram_row[1, 6] == 1.25
    assert found.gram_row[0, 0] == -0.5
    assert int(found.mask.sum()) == 6
    assert to_pixels(found.box, (14, 14), (63, 105)) == (84, 14, 105, 56)


def test_the_steps_by_hand():
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0], [2, -1], [0, 0]])  # 2 x 3
    # Gram matrix, signs off the diagonal:    0: 2 4    1: 2    2: 0 1 4    3: none    4: 0 2    5: none
    found = lost(x, (2, 3), k=4)
    assert found.degree.tolist() == [[2, 1, 3], [0, 2, 0]]
    assert found.seed == 3
    assert found.similars.tolist() == [3]
    assert found.gram_row.tolist() == [[-1, 0, -1], [1, -2, 0]]
    assert found.box == enclosing(found.mask) == (1, 0, 2, 1)
    # with 1 added to all entries, off the diagonal: 0: 1 2 4 5   1: 0 2 3 5   2: 0 1 4 5   3: 1 5   4: 0 2 5   5: all
    raised = lost(x, (2, 3), bias=1.0, k=4)
    assert raised.degree.tolist() == [[4, 4, 4], [2, 3, 5]]
    assert raised.seed == 3
    assert raised.similars.tolist() == [3, 1]  # of 3 4 0 1; neither 4 nor 0 exceeds -1
    # rows 3 and 1 of the Gram matrix with 1 added: (0, 1, 0, 2, -1, 1) + (1, 2, 2, 1, 0, 1)
    assert raised.gram_row.flatten().tolist() == [0, 1, 0, 2, -1, 1]
    assert raised.mask.tolist() == [[True, True, True], [True, False, True]]
    assert raised.box == enclosing(raised.mask) == (0, 0, 2, 3)
    assert raised.by_chance  # of six patches any five hang together as well


def features_of(kind):
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 24, generator=draw)  # more than two blocks of the Gram matrix
    waves = torch.cos(torch.arange(300)[:, None] * torch.linspace(0.01, 0.3, 24))
    return {
        "random": noise,
        "smooth": 2 * waves + 0.1 * noise,
        "orthogonal": torch.eye(300)[:, torch.randperm(300, generator=draw)],
        "repeated": noise[:30].repeat(10, 1),
        "some zero": noise * (torch.arange(300) % 3 > 0)[:, None],
        "huge": noise * 1e17,
        "tiny": noise * 1e-17,
        "of all lengths": noise * 10.0 ** torch.linspace(-8, 8, 300)[:, None],
    }[kind]


@pytest.mark.parametrize("bias", [0.0, -1.5, 1.5])
@pytest.mark.parametrize(
    "kind", ["random", "smooth", "orthogonal", "repeated", "some zero", "huge", "tiny", "of all lengths"]
)
def test_degrees_are_those_of_the_whole_gram_matrix_in_float64(kind, bias):
    x = features_of(kind)
    links = x.double() @ x.double().T + bias > 0
    assert torch.equal(degrees(x, bias), links.fill_diagonal_(False).sum(1))


def test_patches_of_equal_degree_keep_row_major_order():
    found = lost(torch.ones(12, 3), (3, 4), k=5)
    assert found.seed == 0
    assert found.similars.tolist() == [0, 1, 2, 3, 4]
    assert enclosing(found.mask) == (0, 0, 3, 4)
    assert found.degree.unique().tolist() == [11]


def test_a_bias_that_leaves_no_similars_gives_the_seeds_own_patch():
    x = scene((4, 5), (1, 1, 3, 3))
    found = lost(x, (4, 5), bias=-20.0)
    assert not found.degree.any()
    assert found.similars.tolist() == [found.seed] == [0]
    assert (found.gram_row < 0).all()
    assert found.box == (0, 0, 1, 1)
    assert int(found.mask.sum()) == 1


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("value", [0.0, 0.1, 3e8])
def test_patches_that_are_all_alike_have_no_object(normalize, value):
    """Centred they are rounding, which unit length would blow up to features like any."""
    x = prepare(torch.full((130, 24), value) * torch.linspace(1, 2, 24), normalize)
    for bias in (0.0, -0.5, 0.5, float(automatic_bias(x))):
        found = lost(x, (10, 13), bias=bias)
        assert (found.box, found.nothing) == (None, ALIKE)


def test_noise_has_a_box_by_chance():
    real = 0
    for seed in range(40):
        x = torch.randn(196, 64, generator=torch.Generator().manual_seed(seed))
        found = lost(x, (14, 14))
        assert found.box is not None
        real += not found.by_chance
    assert real <= 3  # 1 of 100 is let through: more than 3 of 40 have a chance of 1 in 1000


@pytest.mark.parametrize("grid", [(1, 40), (40, 1)])
def test_grids_of_a_single_row_col_or_patch(grid):
    row, col, *_ = box = (0, 7, 1, 12) if grid[0] == 1 else (7, 0, 12, 1)
    found = lost(scene(grid, box), grid)
    assert found.box == box
    assert found.seed == row * grid[1] + col


def test_the_object_is_one_component():
    x = scene((6, 9), (1, 1, 3, 3))
    x.view(6, 9, 2)[4:6, 6:9] = torch.tensor([-0.5, 1.0])  # alike, but apart
    found = lost(x, (6, 9))
    assert len(found.similars) == 10
    assert found.box == (1, 1, 3, 3)


@settings(max_examples=60)
@given(whole_numbers, st.sampled_from([0.0, -1.0, 2.0]), st.integers(1, 12))
def test_what_must_hold_of_any_image(case, bias, k):
    grid, x = case[0], torch.from_numpy(case[1])
    found = lost(x, grid, bias=bias, k=k)
    gram = x @ x.T + bias
    assert found.degree.flatten()[found.seed] == found.degree.min()
    assert found.seed in found.similars
    assert len(found.similars) <= k
    assert found.mask.flatten()[found.seed]
    row0, col0, row1, col1 = box = enclosing(found.mask)
    assert found.box == (None if found.nothing else box)
    inside = found.mask[row0:row1, col0:col1]
    assert inside.sum() == found.mask.sum()
    assert inside.any(0)[[0, -1]].all()
    assert inside.any(1)[[0, -1]].all()
    total = gram[found.similars].sum(0)
    if bias == 0 and x[found.seed].any():  # the seed is in its own component, not put there
        assert total[found.seed] > 0
    if int(found.mask.sum()) > 1:
        assert (total[found.mask.flatten()] > 0).all()


@settings(max_examples=40)
@given(whole_numbers, st.sampled_from([0.0, -1.0, 2.0]), st.randoms(use_true_random=False))
def test_neither_order_nor_sign_of_channels_nor_scale_matters(case, bias, draw):
    grid, x = case[0], torch.from_numpy(case[1])
    order = list(range(x.shape[1]))
    draw.shuffle(order)
    signs = torch.tensor([draw.choice((-1.0, 1.0)) for _ in order])
    found, other = lost(x, grid, bias=bias), lost(2 * x[:, order] * signs, grid, bias=4 * bias)
    assert (other.box, other.seed) == (found.box, found.seed)
    assert torch.equal(other.degree, found.degree)
    assert torch.equal(other.gram_row, 4 * found.gram_row)
    assert torch.equal(other.mask, found.mask)


def test_each_image_of_a_batch_may_have_its_own_bias():
    x = scene((7, 9), (1, 1, 4, 4)).expand(2, -1, -1)
    plain, biased = lost_batch(x, (7, 9), bias=torch.tensor([0.0, -20.0]))
    assert plain.box == (1, 1, 4, 4)
    assert biased.box == (0, 0, 1, 1)
    assert lost_batch(x[:0], (7, 9)) == []


def test_half_precision_is_counted_in_float32():
    x = scene((5, 9), (1, 6, 4, 8)).bfloat16()
    found = lost(x.requires_grad_(), (5, 9))
    assert found.gram_row.dtype == torch.float32
    assert not found.gram_row.requires_grad
    assert found.box == (1, 6, 4, 8)


def test_what_does_not_fit_is_refused():
    x = torch.ones(12, 3)
    with pytest.raises(ValueError, match="a 3x5 grid holds 15 patches, not 12"):
        lost(x, (3, 5))
    with pytest.raises(ValueError, match="at least 1 and not 0"):
        lost(x, (3, 4), k=0)
    x[4, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        lost(x, (3, 4))
