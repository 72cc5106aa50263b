"""Crops show as much of the picture as the recipe says, colours change as often as it says, and torch's seed decides."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from vitreg.config import decode, encode
from vitreg.data.views.augment import RandAugment, ThreeAugment, clip_view, deit3_view, mae_view, simple_random_crop
from vitreg.data.views.settings import AugmentConfig
from vitreg.errors import UserError

POLICY = "rand-m9-mstd0.5-inc1"
PLAIN = AugmentConfig(crop="rrc", three_augment=False, colour_jitter=0.0)
VIEWS = {
    "deit3-src": deit3_view(32),
    "deit3-rrc": deit3_view(32, AugmentConfig(crop="rrc")),
    "deit3-randaugment": deit3_view(32, AugmentConfig(crop="rrc", rand_augment=POLICY)),
    "clip": clip_view(32),
    "mae": mae_view(32),
}


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def coordinates(side: int = 256) -> Image.Image:
    """Red is the column, green the row."""
    rows, cols = np.mgrid[:side, :side].astype(np.uint8)
    return Image.fromarray(np.stack([cols, rows, np.zeros_like(rows)], axis=-1))


def roughness_of(picture: Image.Image) -> float:
    return np.abs(np.diff(np.array(picture).astype(float), axis=0)).mean()


def extent(crop: torch.Tensor) -> tuple[float, float]:
    """Rows and columns of the picture of coordinates that a crop shows; columns are negative in a mirrored one."""
    inside = crop[:, 4:-4, 4:-4].float()
    span = crop.shape[-1] / (inside.shape[-1] - 1)
    return (
        (inside[1, -1] - inside[1, 0]).mean().item() * span,
        (inside[0, :, -1] - inside[0, :, 0]).mean().item() * span,
    )


@pytest.mark.parametrize(
    ("view", "scale", "mirrored"),
    [
        (deit3_view(48, PLAIN), (0.08, 1.0), 0.5),
        (clip_view(48), (0.9, 1.0), 0.0),
        (mae_view(48), (0.2, 1.0), 0.5),
    ],
    ids=["deit3", "clip", "mae"],
)
def test_resized_crops_have_the_recipes_share_and_aspect(view, scale, mirrored):
    torch.manual_seed(0)
    extents = torch.tensor([extent(view(coordinates())[0][0]) for _ in range(400)])
    shares, aspects = extents.prod(1).abs() / 256**2, (extents[:, 1] / extents[:, 0]).abs()
    assert shares.min() > scale[0] * 0.95
    assert shares.max() < scale[1] * 1.03
    assert shares.min() < scale[0] + 0.05
    assert shares.max() > 0.9
    assert aspects.min() > 0.72
    assert aspects.max() < 1.39
    if mirrored:
        assert (extents[:, 1] < 0).float().mean().item() == pytest.approx(mirrored, abs=0.1)
    else:
        assert (extents[:, 1] > 0).all()


def test_simple_random_crop_is_a_window_of_the_padded_picture():
    picture = noise(12, 12)
    padded = np.pad(np.array(picture), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 12, left : left + 12][:, ::step].tobytes(): (top, left, step)
        for top in range(9)
        for left in range(9)
        for step in (1, -1)
    }
    view = deit3_view(12, AugmentConfig(three_augment=False, colour_jitter=0.0))
    torch.manual_seed(0)
    seen = {windows[view(picture)[0][0].permute(1, 2, 0).numpy().tobytes()] for _ in range(1500)}
    assert len(seen) > 150  # of 162


def test_simple_random_crop_keeps_the_short_side_whole():
    rows, cols = np.mgrid[:64, :160].astype(np.uint8)
    picture = Image.fromarray(np.stack([cols, rows, rows], axis=-1))
    view = deit3_view(64, AugmentConfig(three_augment=False, colour_jitter=0.0, flip=0.0))
    torch.manual_seed(0)
    starts = []
    for _ in range(200):
        crop = view(picture)[0][0].int()
        assert crop[1, :, 32].max() - crop[1, :, 32].min() >= 63 - 4
        starts.append(crop[0, 0, 8].item() - 8)
    assert min(starts) < 5
    assert max(starts) > 90


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 300), (4000, 3), (64, 47)])
@pytest.mark.parametrize("name", VIEWS)
def test_every_picture_gives_a_crop(name, size):
    torch.manual_seed(1)
    (crop,) = VIEWS[name](noise(*size))
    assert crop.shape == (1, 3, 32, 32)
    assert crop.dtype == torch.uint8
    assert crop.is_contiguous()


def test_a_long_strip_is_not_enlarged_whole():
    part, *_ = simple_random_crop(64)
    strip = torch.arange(250, dtype=torch.uint8).expand(3, 1, 250)
    torch.manual_seed(0)
    parts = [part(strip) for _ in range(300)]  # enlarged whole, a strip of 60 000 x 1 px would be 3 840 000 x 64
    assert all(len(found[0, 0]) == 16 and found[0, 0, -1] - found[0, 0, 0] == 15 for found in parts)
    assert min(int(found[0, 0, 0]) for found in parts) < 5
    assert max(int(found[0, 0, -1]) for found in parts) > 244
    assert part(strip.mT).shape == (3, 16, 1)
    whole = torch.zeros(3, 10, 160, dtype=torch.uint8)
    assert part(whole) is whole


@pytest.mark.parametrize("name", VIEWS)
def test_torchs_seed_alone_decides(name):
    view, picture = VIEWS[name], noise(40, 50)

    def draw(seed: int, view=view) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([view(picture)[0] for _ in range(4)])

    python, numpy = random.getstate(), np.random.get_state()[1].copy()
    first = draw(5)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()
    random.seed(99)
    np.random.seed(99)
    assert torch.equal(draw(5), first)
    assert torch.equal(draw(5, pickle.loads(pickle.dumps(view))), first)
    assert not torch.equal(draw(6), first)


def test_three_augment_does_exactly_one_of_three():
    picture = noise(12, 12)
    grey, solarised = ImageOps.grayscale(picture).convert("RGB"), ImageOps.solarize(picture, 128)
    counts = {"grey": 0, "solarised": 0, "other": 0}
    roughness = []
    torch.manual_seed(0)
    for _ in range(2000):
        changed = ThreeAugment()(picture)
        kind = "grey" if changed == grey else "solarised" if changed == solarised else "other"
        counts[kind] += 1
        if kind == "other":
            roughness.append(roughness_of(changed))
    bound = 4 * (2000 * 1 / 3 * 2 / 3) ** 0.5
    assert all(abs(count - 2000 / 3) < bound for count in counts.values())
    before, blurred = roughness_of(picture), roughness_of(picture.filter(ImageFilter.GaussianBlur(2.0)))
    assert 0.95 * before < max(roughness) <= before
    assert blurred <= min(roughness) < 1.02 * blurred


def test_three_augment_comes_before_the_colour_jitter():
    kinds = [type(change).__name__ for change in deit3_view(32).colours]
    assert kinds == ["ThreeAugment", "ColorJitter"]


def test_colour_jitter_reaches_its_limits_and_no_further():
    view = deit3_view(8, AugmentConfig(three_augment=False, colour_jitter=0.3))
    picture = Image.new("RGB", (8, 8), (100, 100, 100))  # grey and flat: contrast and saturation change nothing
    torch.manual_seed(0)
    levels = [int(view(picture)[0][0, 0, 0, 0]) for _ in range(500)]
    assert 69 <= min(levels) <= 72
    assert 128 <= max(levels) <= 131


def test_rand_augment_is_timms_with_the_settings_of_its_training_transform():
    from timm.data import create_transform
    from timm.data.auto_augment import RandAugment as Theirs

    transform = create_transform(224, is_training=True, auto_augment=POLICY, interpolation="bicubic", re_prob=0.0)
    theirs = next(part for part in transform.transforms if isinstance(part, Theirs))
    ours, picture = RandAugment(POLICY, 224), noise(64, 64)
    for seed in range(30):
        torch.manual_seed(seed)
        changed = ours(picture)
        torch.manual_seed(seed)
        drawn = int(torch.randint(2**32, ()))
        random.seed(drawn)
        np.random.seed(drawn)
        assert changed == theirs(picture)


def test_rand_augment_replaces_the_other_colours():
    view = deit3_view(32, AugmentConfig(rand_augment=POLICY))
    assert [type(change) for change in view.colours] == [RandAugment]


def test_settings_survive_json():
    config = AugmentConfig(crop="rrc", scale=(0.1, 0.9), rand_augment=POLICY)
    assert decode(AugmentConfig, encode(config)) == config


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"flip": 1.5}, "flip"),
        ({"colour_jitter": -0.1}, "colour_jitter"),
        ({"rand_augment": "rand-m9-mst0.5"}, "rand-m9-mst0.5"),
        ({"rand_augment": "augmix-m5"}, "augmix-m5"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        AugmentConfig(**settings)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="4"):
        deit3_view(4)
