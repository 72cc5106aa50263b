"""Masks: never more hidden than wanted, as many crops masked as wanted, and the same for the same generator."""

from collections import deque
from random import Random

import numpy as np
import pytest
import torch

from vitreg.errors import UserError
from vitreg.recipes import masking
from vitreg.recipes.masking import (
    add_block,
    block_mask,
    draw_block_masks,
    draw_random_masks,
    keep_and_restore,
    masks_weight,
)
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import MaskConfig

DEFAULT = MaskConfig()
NOW = Progress(step=3, total=10, epoch_steps=5, seed=7)


def draw(crops=16, grid=(16, 16), config=DEFAULT, seed=0):
    return draw_block_masks(crops, grid, config, torch.Generator().manual_seed(seed))


def pieces(mask):
    """Sizes of the 4-connected pieces of a mask."""
    left, sizes = {tuple(place) for place in mask.nonzero().tolist()}, []
    while left:
        queue, size = deque([left.pop()]), 0
        while queue:
            r, c = queue.popleft()
            size += 1
            near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & left
            left -= near
            queue.extend(near)
        sizes.append(size)
    return sizes


@pytest.mark.parametrize("grid", [(16, 16), (7, 7), (10, 23), (37, 5), (2, 2)])
def test_never_more_than_wanted(grid):
    patches = grid[0] * grid[1]
    random = Random(0)
    for target in range(patches + 1):
        assert int(block_mask(target, grid, random).sum()) <= target


def test_as_many_patches_as_officially():
    counts = torch.cat([draw(64, seed=seed).sum(1) for seed in range(125)])
    masked = counts[counts > 0].float()
    assert len(masked) == 32 * 125
    assert abs(masked.mean() - 76.2) < 0.3  # of 76.3 that are wanted: a few masks end early


@pytest.mark.parametrize(
    ("crops", "share", "masked"), [(64, 0.5, 32), (10, 0.25, 2), (2, 0.5, 1), (3, 1.0, 3), (6, 0.34, 2)]
)
def test_exactly_the_share_of_crops_is_masked(crops, share, masked):
    for seed in range(5):
        assert (draw(crops, config=MaskConfig(share=share), seed=seed).any(1)).sum() == masked


def test_ratios_are_stratified():
    """Sorted, the i-th of n counts aims at its own n-th part of the range, and may fall a little short of it."""
    steps = torch.linspace(0.1, 0.5, 17)
    for seed in range(20):
        counts = draw(32, seed=seed).sum(1).sort().values[16:]
        assert (counts <= 256 * steps[1:]).all()
        assert (counts >= (256 * steps[:-1]).floor() - 8).all()
        assert (counts >= (256 * steps[:-1]).floor()).sum() >= 13


def test_crops_are_shuffled():
    masked = torch.stack([draw(8, seed=seed).any(1) for seed in range(200)]).float().mean(0)
    assert ((masked > 0.3) & (masked < 0.7)).all()  # 0.5 each, standard deviation 0.035
    largest = torch.tensor([draw(8, seed=seed).sum(1).argmax().item() for seed in range(200)])
    assert torch.bincount(largest, minlength=8).min() >= 5


def test_hidden_patches_form_blocks():
    sizes = [size for seed in range(20) for mask in draw(16, seed=seed) for size in pieces(mask.view(16, 16))]
    assert sum(sizes) / len(sizes) > 8, "single patches drawn at random would form pieces of two or three"


@pytest.mark.parametrize("grid", [(16, 16), (4, 16), (9, 3)])
def test_a_block_is_a_rectangle_smaller_than_the_grid_on_both_sides(grid):
    random, most, shapes = Random(1), grid[0] // 2 * grid[1], set()
    for _ in range(2000):
        mask = np.zeros(grid, dtype=bool)
        added = add_block(mask, most, random)
        if not added:  # ten misses, likely where most blocks are larger than the grid
            assert not mask.any()
            continue
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = (int(np.ptp(side)) + 1 for side in (rows, cols))
        assert mask.sum() == added == height * width
        # Sides are rounded: 1 may stand for 1.5, and so on.
        assert (height + 0.5) / (width - 0.5) >= 0.3
        assert (height - 0.5) / (width + 0.5) <= 1 / 0.3
        assert 3 <= added <= most
        shapes.add((height, width))
    assert max(h for h, _ in shapes) < grid[0]
    assert max(w for _, w in shapes) < grid[1]
    assert {h > w for h, w in shapes} == {True, False}


@pytest.mark.parametrize(("grid", "largest"), [((16, 16), 128), ((37, 37), 666), ((14, 14), 98)])
def test_a_block_has_at_most_half_of_the_patches_rounded_as_officially(grid, largest, monkeypatch):
    asked = []
    monkeypatch.setattr(masking, "add_block", lambda mask, most, random: asked.append(most) or most)
    block_mask(grid[0] * grid[1], grid, Random(0))
    assert asked[0] == largest
    assert sum(asked) == grid[0] * grid[1]


def test_every_patch_can_be_hidden():
    often = torch.cat([draw(64, (7, 7), seed=seed) for seed in range(50)]).float().mean(0)
    assert often.min() > 0.02
    assert often.max() < 0.4


def test_the_generator_decides():
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_block_masks(8, (16, 16), MaskConfig(), generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_weights_count_crops_alike():
    masks = draw(8)
    weights = masks_weight(masks)
    assert len(weights) == masks.sum()
    start = 0
    for count in masks.sum(1).tolist():
        assert weights[start : start + count].tolist() == pytest.approx([1 / count] * count if count else [])
        start += count


def test_too_few_crops_say_so():
    with pytest.raises(UserError, match="make the group larger"):
        draw(2, config=MaskConfig(share=0.3))


@pytest.mark.parametrize("grid", [(1, 9), (9, 1)])
def test_too_small_a_grid_says_so(grid):
    with pytest.raises(UserError, match="make crops larger"):
        draw(grid=grid)


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"share": 1.5}, {"ratio": (0.5, 0.1)}, {"ratio": (-0.1, 0.5)}, {"ratio": (0.1, 1.1)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="masks need"):
        MaskConfig(**wrong)


def test_visible_patches_come_back_to_their_places():
    tokens = torch.randn(5, 20, 3)
    keep, restore = keep_and_restore(5, 20, 0.75, torch.Generator().manual_seed(0))
    assert keep.shape == (5, 5)
    visible = tokens.take_along_dim(keep[..., None], dim=1)
    sequence = torch.cat([visible, torch.full((5, 15, 3), torch.nan)], dim=1)
    back = sequence.take_along_dim(restore[..., None], dim=1)
    hidden = back.isnan().any(-1)
    assert torch.equal(back[~hidden], tokens[~hidden])
    assert (hidden.sum(1) == 15).all()
    assert torch.equal(hidden, restore >= 5)
    assert not hidden.gather(1, keep).any()


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(196, 0.75, 49), (49, 0.75, 12), (196, 0.6, 78), (10, 0.5, 5)])
def test_as_many_stay_as_in_the_official_code(patches, ratio, kept):
    keep, _ = keep_and_restore(2, patches, ratio, torch.Generator())
    assert keep.shape == (2, kept)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99, -0.5])
def test_something_is_hidden_and_something_visible(ratio):
    with pytest.raises(UserError, match="some must be visible"):
        keep_and_restore(2, 16, ratio, torch.Generator())


def test_random_masks_do_not_depend_on_how_the_batch_is_shared_out():
    whole = draw_random_masks(8, (4, 6), 0.75, 2, NOW)
    first = draw_random_masks(4, (4, 6), 0.75, 2, NOW)
    second = draw_random_masks(4, (4, 6), 0.75, 2, Progress(step=3, total=10, epoch_steps=5, seed=7, first=4))
    assert torch.equal(whole, torch.cat([first, second]))
    assert (whole.sum(1) == 18).all()
    assert len({tuple(mask) for mask in whole.tolist()}) == 8
    with pytest.raises(ValueError, match="whole groups"):
        draw_random_masks(3, (4, 6), 0.75, 2, NOW)


def test_random_masks_hide_every_patch_alike():
    often = draw_random_masks(2000, (4, 4), 0.75, 2000, NOW).float().mean(0)
    assert ((often - 0.75).abs() < 0.05).all()  # standard deviation 0.01
