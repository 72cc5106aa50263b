import math

import pytest
import torch

from vitreg.probes.spatial import PixelProbe, PositionProbe, SoftmaxPositionProbe, cell_distance, patchify

GRID, PATCH = (3, 5), (4, 2)  # neither the grid nor the patch is square


def test_patches_are_cut_where_plain_loops_cut_them():
    images = torch.randn(2, 3, GRID[0] * PATCH[0], GRID[1] * PATCH[1])
    cut = patchify(images, PATCH)
    assert cut.shape == (2, 15, 24)
    for image in range(2):
        for row in range(GRID[0]):
            for col in range(GRID[1]):
                for y in range(PATCH[0]):
                    for x in range(PATCH[1]):
                        for channel in range(3):
                            value = images[image, channel, row * PATCH[0] + y, col * PATCH[1] + x]
                            assert cut[image, row * GRID[1] + col, (y * PATCH[1] + x) * 3 + channel] == value
    assert not torch.equal(cut, images.reshape(2, 15, 24))  # the mistake


def test_sides_must_hold_whole_patches():
    with pytest.raises(ValueError, match="12x11 pixels do not divide into patches of 4x2"):
        patchify(torch.zeros(1, 3, 12, 11), PATCH)


def test_distance_is_counted_in_patches_on_a_grid_that_is_not_square():
    found = torch.arange(15).repeat(1, 1)
    found[0, 0], found[0, 7] = 14, 3
    distance = cell_distance(found, GRID)
    assert distance[0, 0] == pytest.approx(math.hypot(2, 4))
    assert distance[0, 7] == pytest.approx(math.hypot(1, 1))
    assert distance.sum() == pytest.approx(math.hypot(2, 4) + math.hypot(1, 1))


def tokens_with_places(images, seed, noise=0.3):
    g = torch.Generator().manual_seed(seed)
    places = torch.randn(15, 24, generator=torch.Generator().manual_seed(99))
    return places + noise * torch.randn(images, 15, 24, generator=g)


def tenth(images):
    return torch.arange(images) % 10 == 1


def test_places_that_tokens_carry_are_found_and_shuffled_ones_are_not():
    probe = PositionProbe(GRID)
    train, test = tokens_with_places(60, 0), tokens_with_places(40, 1)
    for part, own in zip(train.split(25), tenth(60).split(25), strict=True):
        probe.partial_fit(part, own)
    probe.finish()
    here = torch.arange(15)
    assert (probe.predict(test) == here).float().mean() > 0.97
    assert (probe.predict(test, shuffled=True) == here).float().mean() < 0.2  # chance is 1 in 15
    cells = torch.stack([here // 5, here % 5], 1).float()
    assert (probe.regress(test) - cells).norm(dim=-1).mean() < 0.5


def test_tokens_without_places_are_at_chance():
    noise = torch.randn(100, 15, 24, generator=torch.Generator().manual_seed(0))
    probe = PositionProbe(GRID).partial_fit(noise[:60], tenth(60)).finish()
    assert (probe.predict(noise[60:]) == torch.arange(15)).float().mean() < 0.12


def test_batches_do_not_matter():
    tokens = tokens_with_places(30, 0)
    whole = PositionProbe(GRID).partial_fit(tokens, tenth(30)).finish()
    parts = PositionProbe(GRID)
    for image, own in zip(tokens, tenth(30), strict=True):
        parts.partial_fit(image[None], own[None])
    torch.testing.assert_close(parts.finish().cells_.map_.weight, whole.cells_.map_.weight)


def test_logistic_regression_finds_them_too():
    train, test = tokens_with_places(30, 0, noise=1.0), tokens_with_places(40, 1, noise=1.0)
    cells = torch.arange(15).repeat(30)
    x = train.flatten(0, 1)
    probe = SoftmaxPositionProbe(GRID).fit(x[:-60], cells[:-60], (x[-60:], cells[-60:]))
    softmax = (probe.predict(test) == torch.arange(15)).float().mean()
    ridge = PositionProbe(GRID).partial_fit(train, tenth(30)).finish()
    squares = (ridge.predict(test) == torch.arange(15)).float().mean()
    assert softmax > 0.85
    assert softmax > squares - 0.05


def test_pixels_that_tokens_carry_are_found():
    g = torch.Generator().manual_seed(0)
    images = torch.randn(80, 3, 12, 10, generator=g) + 0.5
    mix = torch.randn(24, 32, generator=g)
    tokens = patchify(images, PATCH) @ mix + 0.01 * torch.randn(80, 15, 32, generator=g)
    tokens[:, 3] = torch.randn(80, 32, generator=g)  # knows nothing of its patch
    probe = PixelProbe(PATCH)
    for start in range(0, 60, 20):
        part = slice(start, start + 20)
        probe.partial_fit(tokens[part], images[part], tenth(60)[part])
    probe.finish()
    errors, control = probe.errors(tokens[60:], images[60:]), probe.control_errors(images[60:])
    knowing = torch.arange(15) != 3
    assert errors[:, knowing].mean() < 0.3 * control[:, knowing].mean()
    assert errors[:, 3].mean() > 0.9 * control[:, 3].mean()
    direct = (probe.ridge_.map_(tokens[60]) - patchify(images[60:61], PATCH)[0]).square().sum(1).sqrt()
    torch.testing.assert_close(errors[0], direct)
    mean = patchify(images[:60], PATCH).flatten(0, 1).mean(0)
    torch.testing.assert_close(probe.mean_patch_.float(), mean)


def test_another_grid_or_no_tokens_are_refused():
    with pytest.raises(ValueError, match="3x5 grid holds 15 patches, not 14"):
        PositionProbe(GRID).partial_fit(torch.zeros(1, 14, 4), torch.tensor([False]))
    with pytest.raises(ValueError, match="both needed"):
        PositionProbe(GRID).finish()
    with pytest.raises(ValueError, match="with patches"):
        PixelProbe(PATCH).partial_fit(torch.zeros(1, 14, 4), torch.zeros(1, 3, 12, 10), torch.tensor([False]))
