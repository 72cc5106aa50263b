"""Preprocessing against timm's and torchvision's own transforms, and the arithmetic of sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2

from vitreg.data import CLIP, HALF, IMAGENET, Preprocess, fit
from vitreg.errors import UserError

SIZES = [(300, 200), (200, 300), (224, 224), (97, 511), (30, 40), (640, 481)]  # width, height


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def config(**changes: object) -> dict:
    base = {
        "input_size": (3, 224, 224),
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return base | changes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 0.875, "interpolation": "bilinear"},
        {"crop_pct": 1.0, "input_size": (3, 518, 518)},
        {"crop_pct": 0.95, "crop_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"crop_pct": 1.0, "crop_mode": "squash", "input_size": (3, 160, 256)},
        {"crop_mode": "border"},
        {"crop_pct": 1.0, "crop_mode": "border", "input_size": (3, 131, 224)},
        {"input_size": (3, 256, 160)},
        {"crop_pct": 1.0, "input_size": (3, 160, 257)},
    ],
    ids=str,
)
def test_from_timm_equals_timms_own_transform(changes):
    settings = config(**changes)
    own = Preprocess.from_timm(settings)
    theirs = create_transform(**settings, is_training=False)
    for width, height in SIZES:
        image = noise(width, height)
        got, expected = own(image), theirs(image)
        assert got.dtype == torch.float32
        assert got.shape == settings["input_size"]
        assert (got - expected).abs().max() <= 1e-6, (width, height)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(384, 384), (160, 256), (98, 98)])
def test_another_size_equals_timms_own_transform_of_that_size(mode, size):
    settings = config(crop_pct=0.9, crop_mode=mode)
    own = Preprocess.from_timm(settings).with_size((131, 140)).with_size(size)
    theirs = create_transform(**{**settings, "input_size": (3, *size)}, is_training=False)
    for width, height in SIZES:
        image = noise(width, height)
        assert (own(image) - theirs(image)).abs().max() <= 1e-6, (width, height)


def test_from_timm_has_timms_defaults():
    got = Preprocess.from_timm({"input_size": (3, 224, 224), "crop_pct": None, "mean": None})
    assert replace(got, share=None) == IMAGENET


def test_from_timm_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="1 channels"):
        Preprocess.from_timm(config(input_size=(1, 28, 28)))
    with pytest.raises(ValueError, match="crop_mode 'middle'"):
        Preprocess.from_timm(config(crop_mode="middle"))


@pytest.mark.parametrize("preset", [IMAGENET, CLIP, HALF], ids=["imagenet", "clip", "half"])
def test_presets_equal_torchvision(preset):
    steps = [v2.Resize(preset.resize, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(preset.size)]
    reference = v2.Compose(
        [*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(preset.mean, preset.std)]
    )
    for width, height in SIZES:
        image = noise(width, height)
        assert (preset(image) - reference(image)).abs().max() <= 1e-6


def test_a_picture_smaller_than_the_crop_is_padded_as_in_torchvision():
    own = Preprocess((65, 90), 31, IMAGENET.mean, IMAGENET.std)
    reference = v2.Compose([v2.Resize(31, v2.InterpolationMode.BICUBIC), v2.CenterCrop((65, 90)), v2.PILToTensor()])
    for width, height in SIZES:
        image = noise(width, height)
        assert (own.pixels(image) == reference(image).permute(1, 2, 0).numpy()).all()


def test_any_mode_is_taken():
    assert IMAGENET(noise(40, 30).convert("CMYK")).shape == (3, 224, 224)
    assert torch.equal(IMAGENET(Image.new("L", (40, 30), 9)), IMAGENET(Image.new("RGB", (40, 30), (9, 9, 9))))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "size",
    [
        (4000, 80),
        (80, 4001),
        *(pytest.param(size, marks=pytest.mark.slow) for size in ((4001, 80), (4444, 61), (900, 1), (1, 901))),
    ],
)
def test_the_centre_of_a_strip_is_computed_as_if_all_of_it_were(size, interpolation):
    image = noise(*size)
    for settings in (IMAGENET, IMAGENET.with_size((96, 224)), IMAGENET.with_size((224, 96))):
        settings = replace(settings, interpolation=interpolation)
        whole = v2.functional.resize(
            image,
            list(settings._resized(image.height, image.width)),
            interpolation=v2.InterpolationMode(interpolation),
            antialias=True,
        )
        expected = np.asarray(v2.functional.center_crop(whole, list(settings.size)), int)
        # Pillow keeps the corner of the part to resize in float32, which moves sampling points by 1e-5 of a pixel.
        assert np.abs(settings.pixels(image).astype(int) - expected).max() <= 1


def test_a_strip_does_not_grow_without_bound(monkeypatch):
    seen = []
    resize = Image.Image.resize

    def spy(image, size, *args, **kwargs):
        seen.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", spy)
    for image in (noise(20000, 10), noise(10, 20000), noise(20000, 1)):
        for settings in (
            IMAGENET,
            HALF,
            IMAGENET.with_size((224, 112)),
            Preprocess.from_timm(config(crop_mode="border")),
        ):
            assert settings(image).shape == (3, *settings.size)
    assert max(seen) <= 16 * 224 * 224


def test_with_size_keeps_the_proportion_of_the_crop():
    assert IMAGENET.with_size((518, 518)).resize == 592  # 518 / 0.875
    assert IMAGENET.with_size((224, 224)) is IMAGENET
    assert HALF.with_size((384, 512)).resize == (384, 512)
    wide = IMAGENET.with_size((224, 448))
    assert (wide.resize, wide.aspect) == ((256, 512), "cover")
    assert wide(noise(100, 100)).shape == (3, 224, 448)
    squash = Preprocess((100, 200), (110, 220), HALF.mean, HALF.std).with_size((50, 50))
    assert squash.resize == (55, 55)


def test_a_wide_size_keeps_the_aspect_ratio_of_the_picture():
    """A circle stays a circle: cover, not squash."""
    rows, cols = np.mgrid[:200, :600]
    disc = ((rows - 100) ** 2 + (cols - 300) ** 2 < 50**2).astype(np.uint8) * 255
    got = IMAGENET.with_size((224, 448)).pixels(Image.fromarray(disc).convert("RGB"))[..., 0] > 127
    assert abs(int(got.any(0).sum()) - int(got.any(1).sum())) <= 1


def test_unnormalise_gives_the_bytes_back():
    for preset in (IMAGENET, CLIP, HALF):
        image = noise(300, 260)
        assert (preset.unnormalise(preset(image)) == preset.pixels(image)).all()
    assert IMAGENET.unnormalise(torch.full((3, 2, 5), 100.0)).tolist() == np.full((2, 5, 3), 255).tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "cubic"}, "no interpolation 'cubic'"),
        ({"crop": False}, "without a crop"),
        ({"size": (0, 224)}, "positive"),
        ({"aspect": "border"}, "needs resize as"),
        ({"aspect": "stretch"}, "squash, cover or border"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    settings = {"size": (224, 224), "resize": 256, "mean": (0.0,) * 3, "std": (1.0,) * 3} | changes
    with pytest.raises(ValueError, match=message):
        Preprocess(**settings)


def test_fit_is_the_identity_where_it_already_fits():
    images = torch.rand(2, 3, 28, 42)
    assert all(fit(images, (14, 14), policy) is images for policy in ("pad", "crop", "resize"))


def test_fit_pads_zeros_at_the_bottom_and_the_right():
    images = torch.rand(2, 3, 30, 43) + 1
    got = fit(images, (14, 16), "pad")
    assert got.shape == (2, 3, 42, 48)
    assert torch.equal(got[..., :30, :43], images)
    assert got[..., 30:, :].abs().sum() == 0
    assert got[..., 43:].abs().sum() == 0


def test_fit_crops_the_centre():
    images = torch.rand(1, 3, 31, 47)
    assert torch.equal(fit(images, (14, 14), "crop"), images[..., 1:29, 2:44])
    with pytest.raises(UserError, match="13x47 px cannot be cropped"):
        fit(torch.rand(1, 3, 13, 47), (14, 14), "crop")


def test_fit_resizes_to_the_nearest_multiple_and_at_least_one_patch():
    images = torch.rand(1, 3, 34, 36)
    got = fit(images, (14, 14), "resize")
    expected = torch.nn.functional.interpolate(images, size=(28, 42), mode="bicubic", antialias=True)
    assert torch.allclose(got, expected, atol=1e-6)
    assert fit(torch.rand(1, 3, 35, 3), (14, 14), "resize").shape == (1, 3, 42, 14)
    assert fit(images.bfloat16(), (14, 14), "resize").dtype == torch.bfloat16


def test_fit_names_the_nearest_policy():
    with pytest.raises(UserError, match=r"'resise'.*Did you mean 'resize'"):
        fit(torch.rand(1, 3, 15, 15), (14, 14), "resise")


def test_what_is_written_out_here_is_what_torchvision_computes():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8, generator=draw)
    normal = v2.functional.normalize(pixels.float() / 255, [*IMAGENET.mean], [*IMAGENET.std])
    assert torch.equal(IMAGENET.normalise(pixels), normal)
    resized = v2.functional.resize(normal, [48, 64], v2.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(fit(normal, (16, 16), "resize"), resized)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    for fill, border in ((None, [124, 116, 104]), (7, 7)):
        wide = Preprocess((64, 64), (64, 64), IMAGENET.mean, IMAGENET.std, aspect="border", fill=fill)
        whole = v2.functional.pad(v2.functional.resize(picture, [47, 64], antialias=True), [0, 8, 0, 9], fill=border)
        assert wide.pixels(picture).shape == (64, 64, 3)
        assert (wide.pixels(picture)[:8] == np.array(whole)[:8]).all()
        assert (wide.pixels(picture)[-8:] == np.array(whole)[-8:]).all()
