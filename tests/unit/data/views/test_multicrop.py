"""Every change of a crop happens as often as DINOv2 does it, and is the one torchvision or Pillow would make."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as V

from vitreg.config import decode, encode
from vitreg.data.views import multicrop
from vitreg.data.views.multicrop import BLUR, gaussian_blur, multicrop_view
from vitreg.data.views.settings import DINO_CROPS, MultiCropConfig
from vitreg.errors import UserError

OFF = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "solarize": 0.0}
RAMP = Image.fromarray(np.tile(np.arange(100, 200, 2, dtype=np.uint8)[None, :, None], (50, 1, 3)))
FLAT = Image.new("RGB", (24, 24), (220, 190, 140))  # all bright: solarised it is dark


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    return noise(12, 16).resize((width, height), Image.Resampling.BICUBIC)


def share(picture: Image.Image, changed, draws: int = 2000, **settings) -> list[float]:
    """How often (global 1, global 2, local) is changed, of so many pictures."""
    config = MultiCropConfig(**{**OFF, **settings}, local_crops=1, local_size=8)
    view = multicrop_view(12, config)
    torch.manual_seed(0)
    counts = np.zeros(3)
    for _ in range(draws):
        large, small = view(picture)
        counts += [changed(large[0]), changed(large[1]), changed(small[0])]
    return list(counts / draws)


def close(found: list[float], expected: tuple[float, ...], draws: int = 2000) -> bool:
    """Within four standard deviations of a binomial; exact where the probability is 0 or 1."""
    return all(abs(f - p) <= 4 * (p * (1 - p) / draws) ** 0.5 for f, p in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("settings", "picture", "changed", "expected"),
    [
        ({"flip": 0.5}, RAMP, lambda c: c[0, :, 0].float().mean() > c[0, :, -1].float().mean(), (0.5, 0.5, 0.5)),
        ({"jitter": 0.8}, FLAT, lambda c: tuple(c[:, 4, 4].tolist()) != (220, 190, 140), (0.8, 0.8, 0.8)),
        ({"grey": 0.2}, FLAT, lambda c: bool((c[0] == c[2]).all()), (0.2, 0.2, 0.2)),
        ({"solarize": 0.2}, FLAT, lambda c: bool((c < 128).all()), (0.0, 0.2, 0.0)),
    ],
    ids=["flip", "jitter", "grey", "solarize"],
)
def test_changes_happen_as_often_as_said(settings, picture, changed, expected):
    assert close(share(picture, changed, **settings), expected)


def test_the_defaults_are_dinov2s():
    config = MultiCropConfig()
    assert (config.flip, config.jitter, config.grey, config.solarize) == (0.5, 0.8, 0.2, 0.2)
    assert config.colour_jitter == (0.4, 0.4, 0.2, 0.1)
    assert (config.global_scale, config.local_scale) == ((0.32, 1.0), (0.05, 0.32))
    assert (config.local_crops, config.local_size, config.blur) == (8, 98, "official")


def test_dinos_settings():
    assert (DINO_CROPS.global_scale, DINO_CROPS.local_scale) == ((0.4, 1.0), (0.05, 0.4))
    assert (DINO_CROPS.local_crops, DINO_CROPS.local_size) == (8, 96)
    assert BLUR[DINO_CROPS.blur] == (1.0, 0.1, 0.5)
    assert DINO_CROPS.blur_filter == "pillow"


@pytest.mark.parametrize(("blur", "expected"), [("official", (0.0, 0.9, 0.5)), ("intended", (1.0, 0.1, 0.5))])
def test_blur_happens_as_often_as_in_released_models_or_as_meant(monkeypatch, blur, expected):
    # A sigma of 0.1 leaves no trace, so what is blurred is blackened.
    monkeypatch.setattr(multicrop, "gaussian_blur", lambda crop, sigma: torch.zeros_like(crop))
    assert close(share(FLAT, lambda c: bool((c == 0).all()), blur=blur), expected)


def test_blur_strength_covers_its_range(monkeypatch):
    seen = []
    monkeypatch.setattr(multicrop, "gaussian_blur", lambda crop, sigma: seen.append(sigma) or crop)
    share(FLAT, lambda c: False, draws=300)
    assert 0.1 <= min(seen) < 0.13
    assert 1.97 < max(seen) <= 2.0


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(98, 98), (31, 50), (5, 9)])
def test_gaussian_blur_is_torchvisions(shape, sigma):
    image = V.pil_to_tensor(noise(*shape))
    difference = (gaussian_blur(image, sigma).int() - V.gaussian_blur(image, [9, 9], [sigma, sigma]).int()).abs()
    assert difference.max() <= 1  # rounding
    assert (difference > 0).float().mean() < 0.01


def test_dinos_blur_is_pillows(monkeypatch):
    monkeypatch.setattr(multicrop, "uniform", lambda low, high: 1.3)
    picture = noise(40, 40)

    def first(**settings) -> torch.Tensor:
        torch.manual_seed(3)
        return multicrop_view(32, MultiCropConfig(**OFF, local_crops=0, **settings))(picture)[0][0]

    plain, blurred = first(blur="official"), first(blur="intended", blur_filter="pillow")
    assert torch.equal(blurred, V.pil_to_tensor(V.to_pil_image(plain).filter(ImageFilter.GaussianBlur(1.3))))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flip", V.horizontal_flip),
        ("grey", lambda crop: V.rgb_to_grayscale(crop, num_output_channels=3)),
        ("solarize", lambda crop: V.solarize(crop, 128.0)),
    ],
)
def test_changes_are_torchvisions(name, change):
    def second(chance: float) -> torch.Tensor:
        torch.manual_seed(4)
        config = MultiCropConfig(**{**OFF, "jitter": 1.0, name: chance}, blur="intended", local_crops=0)
        view = multicrop_view(32, config)
        return torch.stack([view(smooth(50, 60))[0][1] for _ in range(8)])

    plain, changed = second(0.0), second(1.0)
    difference = (changed.int() - change(plain).int()).abs().max()
    # Solarising is the last of all. The others come before the blur, which rounds.
    assert difference <= (0 if name == "solarize" else 1)
    assert not torch.equal(changed, plain)


def test_stacks_have_the_crops_and_sizes_asked_for():
    large, small = multicrop_view(64, MultiCropConfig(local_crops=5, local_size=28))(noise(50, 70))
    assert (large.shape, small.shape) == ((2, 3, 64, 64), (5, 3, 28, 28))
    assert large.dtype == small.dtype == torch.uint8
    assert large.is_contiguous()
    assert len(multicrop_view(64, MultiCropConfig(local_crops=0))(noise(50, 70))) == 1
    for size in ((1, 1), (2, 300), (9, 4)):
        assert [stack.shape[-1] for stack in multicrop_view(64)(noise(*size))] == [64, 98]


@pytest.mark.parametrize("config", [MultiCropConfig(), DINO_CROPS], ids=["dinov2", "dino"])
def test_crops_show_the_recipes_share_of_the_picture(config):
    rows, cols = np.mgrid[:256, :256].astype(np.uint8)
    picture = Image.fromarray(np.stack([cols, rows, rows], axis=-1))
    only_places = MultiCropConfig(
        **OFF, global_scale=config.global_scale, local_scale=config.local_scale, local_size=48
    )
    view = multicrop_view(64, only_places)
    torch.manual_seed(0)
    shares: tuple[list[float], list[float]] = ([], [])
    for _ in range(60):
        for stack, found in zip(view(picture), shares, strict=True):
            side = stack.shape[-1]
            inside = stack[:, :, 6:-6, 6:-6].float()  # the blur mirrors the border
            width = (inside[:, 0, :, -1] - inside[:, 0, :, 0]).mean(-1) * side / (side - 13)
            height = (inside[:, 1, -1] - inside[:, 1, 0]).mean(-1) * side / (side - 13)
            found += (width * height / 256**2).tolist()
    for found, (low, high) in zip(shares, (config.global_scale, config.local_scale), strict=True):
        assert low * 0.94 < min(found) < low + 0.15 * (high - low)
        assert high - 0.15 * (high - low) < max(found) < high * 1.04


@pytest.mark.parametrize("config", [MultiCropConfig(local_crops=3), DINO_CROPS], ids=["dinov2", "dino"])
def test_torchs_seed_alone_decides(config):
    view, picture = multicrop_view(48, config), smooth(60, 70)

    def draw(seed: int, view=view) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(seed)
        return view(picture)

    python, numpy = random.getstate(), np.random.get_state()[1].copy()
    first = draw(5)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()
    for again in (draw(5), draw(5, pickle.loads(pickle.dumps(view)))):
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    assert not torch.equal(draw(6)[0], first[0])
    assert not torch.equal(first[0][0], first[0][1])


def test_settings_survive_json():
    assert decode(MultiCropConfig, encode(DINO_CROPS)) == DINO_CROPS


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"global_scale": (0.9, 0.3)}, "global_scale"),
        ({"local_scale": (0.1, 1.2)}, "local_scale"),
        ({"grey": 2.0}, "grey"),
        ({"local_crops": -1}, "-1 local crops"),
        ({"local_size": 4}, "4 px"),
        ({"colour_jitter": (0.4, 0.4, 0.2, 0.6)}, "colour_jitter"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        MultiCropConfig(**settings)
