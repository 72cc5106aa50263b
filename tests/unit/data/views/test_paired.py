"""A picture and its map are cut and mirrored alike: what the picture shows at a place is what the map says of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.data.views.paired import paired_view


def scene(seed, height=60, width=90):
    """A smooth picture whose brightness is known at every pixel."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 6), dtype=np.uint8))
    grey = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(grey).convert("RGB"), grey


@pytest.mark.parametrize("seed", range(8))
def test_classes_follow_the_picture(seed):
    picture, grey = scene(seed)
    torch.manual_seed(seed)
    (crop,), classes = paired_view(32)(picture, (grey // 32).astype(np.uint8))
    assert crop.shape == (1, 3, 32, 32)
    assert (classes.shape, classes.dtype) == ((32, 32), torch.uint8)
    off = (crop[0, 0].int() // 32 - classes.int()).abs()
    assert off.max() <= 1  # a border between two classes may lie between two pixels
    assert (off == 0).float().mean() > 0.85


@pytest.mark.parametrize("cells", [(60, 90), (15, 18)], ids=["pixels", "patches"])
@pytest.mark.parametrize("seed", range(8))
def test_numbers_follow_the_picture(seed, cells):
    picture, grey = scene(seed)
    known = np.asarray(Image.fromarray(grey).resize(cells[::-1], Image.Resampling.BOX), np.float32)
    torch.manual_seed(seed)
    (crop,), numbers = paired_view(32, grid=(4, 4))(picture, np.stack([known, -known], -1))
    assert numbers.shape == (4, 4, 2)
    assert torch.equal(numbers[..., 0], -numbers[..., 1])
    centres = crop[0, 0].float().unflatten(0, (4, 8)).unflatten(2, (4, 8))[:, 3:5, :, 3:5].mean((1, 3))  # of the cells
    assert (numbers[..., 0] - centres).abs().mean() < 12
    elsewhere = (numbers[..., 0].flip(1) - centres).abs().mean()
    assert (numbers[..., 0] - centres).abs().mean() < elsewhere


def test_half_are_mirrored_and_the_seed_decides():
    picture, grey = scene(0)
    view = paired_view(16, scale=(1.0, 1.0))
    crops = []
    for seed in range(40):
        torch.manual_seed(seed)
        crops.append(view(picture, grey)[0][0])
    torch.manual_seed(0)
    assert torch.equal(view(picture, grey)[0][0], crops[0])
    rising = [bool(crop[..., 0].float().mean() < crop[..., -1].float().mean()) for crop in crops]
    assert 8 < sum(rising) < 32
