"""Mixing is timm's inside each group, the labels tell what the pixels hold, and only step and group decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vitreg.config import decode, encode
from vitreg.data.views.mixing import mix
from vitreg.data.views.settings import MixConfig
from vitreg.errors import UserError
from vitreg.recipes.recipe import Progress

MODES = ("batch", "pair", "elem")


def progress(step: int = 3, first: int = 0) -> Progress:
    return Progress(step=step, total=10, epoch_steps=5, seed=1, first=first)


def batch(samples: int = 16, classes: int = 10, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 3, side, side, generator=generator)
    return images, torch.randint(classes, (samples,), generator=generator)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_each_group_is_mixed_as_timm_does(mode, smoothing):
    from timm.data.mixup import Mixup

    images, targets = batch()
    mixed, shares = mix(images, targets, 10, MixConfig(mode=mode, smoothing=smoothing), progress(), 4)
    theirs = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, mode=mode, label_smoothing=smoothing, num_classes=10)
    state = np.random.get_state()
    for group in range(4):
        part = slice(4 * group, 4 * group + 4)
        np.random.seed(int(torch.randint(2**32, (), generator=progress().generator("mix", group))))
        expected, labels = theirs(images[part].clone(), targets[part])
        torch.testing.assert_close(mixed[part], expected, rtol=0, atol=0)
        torch.testing.assert_close(shares[part], labels, rtol=0, atol=0)
    np.random.set_state(state)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_tell_what_the_pixels_hold(mode, mixup, cutmix):
    # Image i is flat with value i and has class i, so the mean of a mixture is the mean of its classes.
    values = torch.arange(16.0)
    images = values[:, None, None, None].expand(16, 3, 12, 12)
    config = MixConfig(mixup=mixup, cutmix=cutmix, mode=mode)
    blended = differ = 0
    for step in range(10):
        mixed, shares = mix(images, torch.arange(16), 16, config, progress(step), 8)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ values)
        torch.testing.assert_close(shares.sum(1), torch.ones(16))
        partners = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8])
        own, other = shares[torch.arange(16), torch.arange(16)], shares[torch.arange(16), partners]
        torch.testing.assert_close(own + other, torch.ones(16))
        if mode == "batch":
            assert (own.unflatten(0, (2, 8)).std(1) < 1e-6).all()  # one draw per group
            differ += bool(own[0] != own[8])
        blended += sum(len(image.unique()) == 1 for image in mixed)  # added up, not pasted
    assert differ > 7 or mode != "batch"  # every group has its own; rectangles may be alike by chance
    if not cutmix:
        assert blended == 160
    elif not mixup:
        assert blended < 40  # a rectangle of no pixel, or of all
    else:
        assert 30 < blended < 140


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_gives_the_same_in_one_piece_and_in_halves(mode):
    images, targets = batch()
    config = MixConfig(mode=mode)
    whole = mix(images, targets, 10, config, progress(), 4)
    halves = [mix(images[s : s + 8], targets[s : s + 8], 10, config, progress(first=s), 4) for s in (0, 8)]
    for one, two in zip(whole, zip(*halves, strict=True), strict=True):
        assert torch.equal(one, torch.cat(two))


def test_only_step_and_group_decide():
    images, targets = batch()
    before = images.clone()
    first = mix(images, targets, 10, MixConfig(), progress(), 8)
    assert torch.equal(images, before)
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    torch.manual_seed(8)
    again = mix(images, targets, 10, MixConfig(), progress(), 8)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert (np.random.get_state()[1] == state).all()
    other = mix(images, targets, 10, MixConfig(), progress(step=4), 8)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("config", [MixConfig(mixup=0.0, cutmix=0.0, smoothing=0.1), MixConfig(prob=0.0)])
def test_without_mixing_labels_are_only_smoothed(config):
    images, targets = batch(7)
    same, shares = mix(images, targets, 10, config, progress(), 7)  # an odd group needs no partners
    assert same is images
    logits = torch.randn(7, 10)
    expected = F.cross_entropy(logits, targets, label_smoothing=config.smoothing)
    torch.testing.assert_close(F.cross_entropy(logits, shares), expected)
    torch.testing.assert_close(shares.sum(1), torch.ones(7))


def test_prob_and_switch_prob_are_shares_of_the_groups():
    images = torch.arange(2.0)[:, None, None, None].expand(2, 3, 32, 32).repeat(500, 1, 1, 1)
    targets = torch.arange(2).repeat(500)
    config = MixConfig(prob=0.6, switch_prob=0.25, mixup=1.0, cutmix=1.0)
    mixed, shares = mix(images, targets, 2, config, progress(), 2)
    touched = (shares.max(1).values < 1)[::2]
    pasted = torch.tensor([len(image.unique()) == 2 for image in mixed[::2]])
    assert touched.float().mean().item() == pytest.approx(0.6, abs=4 * (0.24 / 500) ** 0.5)
    assert (pasted.sum() / touched.sum()).item() == pytest.approx(0.25, abs=4 * (0.1875 / 300) ** 0.5)


def test_groups_that_cannot_be_mixed_are_refused():
    images, targets = batch()
    with pytest.raises(UserError, match="group of 5"):
        mix(images[:15], targets[:15], 10, MixConfig(), progress(), 5)
    with pytest.raises(ValueError, match="whole groups"):
        mix(images[:14], targets[:14], 10, MixConfig(), progress(), 4)
    with pytest.raises(ValueError, match="whole groups"):
        mix(images, targets, 10, MixConfig(), progress(first=2), 4)


@pytest.mark.parametrize(
    ("settings", "named"), [({"prob": 1.2}, "prob"), ({"smoothing": -0.1}, "smoothing"), ({"mixup": -1.0}, "mixup")]
)
def test_impossible_settings_are_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        MixConfig(**settings)


def test_settings_survive_json():
    config = MixConfig(mixup=0.0, mode="pair", smoothing=0.1)
    assert decode(MixConfig, encode(config)) == config
