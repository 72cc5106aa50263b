import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitreg.data.views.dense_augment import (
    ade20k_view,
    colour_of_light,
    nyud_view,
    photometric,
    resized_pair,
    resized_size,
)
from vitreg.data.views.transforms import IMAGENET
from vitreg.errors import UserError

MEAN = IMAGENET.mean


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(height=120, width=160):
    """A picture whose colour tells the label: label = red / 10."""
    labels = torch.randint(0, 20, (height // 20, width // 20), generator=draw(5)).repeat_interleave(20, 0)
    labels = labels.repeat_interleave(20, 1)
    return (10 * labels).to(torch.uint8).expand(3, -1, -1).clone(), labels.to(torch.uint8)


def test_picture_and_labels_are_cut_and_turned_together(monkeypatch):
    monkeypatch.setattr("vitreg.data.views.dense_augment.photometric", lambda image, _: image)
    seen = set()
    for seed in range(12):
        image, labels = ade20k_view(64, MEAN)(*scene(), draw(seed))
        assert image.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        inside = labels != 255
        agree = (image[0].float() / 10 - labels.float()).abs()[inside] < 0.1
        assert agree.float().mean() > 0.75  # all but the seams, which the picture's resizing blurs
        assert (image[:, ~inside] == torch.tensor([124, 116, 104])[:, None]).all()  # the mean colour
        seen.add(bool(inside.all()))
    assert seen == {True, False}  # some crops of half the size lack pixels


def test_a_view_follows_from_its_generator():
    first, again, other = (ade20k_view(64, MEAN)(*scene(), draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_crops_that_are_nearly_all_one_class_are_avoided(monkeypatch):
    labels = torch.zeros(200, 200, dtype=torch.uint8)
    labels[:, 150:] = 1
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)

    def plain():
        found = 0
        for seed in range(30):
            crop = ade20k_view(100, MEAN)(image, labels, draw(seed))[1]
            counts = torch.bincount(crop[crop != 255].long(), minlength=2)
            found += (counts.max() / counts.sum() >= 0.75).item()
        return found

    avoiding = plain()
    monkeypatch.setattr("vitreg.data.views.dense_augment._CROP_TRIES", 1)
    assert avoiding < plain() / 2


def test_sizes_are_those_of_mmcv():
    assert resized_size((480, 640), 512) == (512, 683)
    assert resized_size((683, 512), 256.7) == (342, 257)
    image, labels = resized_pair(*scene(), 60)
    assert image.shape == (3, 60, 80)
    assert torch.equal(labels, scene()[1][::2, ::2])  # nearest
    big = F.interpolate(scene()[0][None].float(), (60, 80), mode="bilinear", align_corners=False)[0]
    assert (image.float() - big).abs().max() <= 0.5


def test_distortion_keeps_the_range_and_changes_each_property_half_of_the_time():
    grey = torch.full((3, 4, 4), 120, dtype=torch.uint8)
    bright = [int(photometric(grey, draw(seed))[0, 0, 0]) for seed in range(200)]
    assert 0.1 < np.mean([value == 120 for value in bright]) < 0.45  # neither brightness nor contrast: a quarter
    assert min(bright) >= (120 - 32) // 2 - 1
    assert max(bright) <= (120 + 32) * 1.5
    red = torch.tensor([200, 50, 50], dtype=torch.uint8)[:, None, None].expand(3, 4, 4).contiguous()
    hues, kept = [], 0
    for seed in range(200):
        values = photometric(red, draw(seed))[:, 0, 0].tolist()
        hue = colorsys.rgb_to_hsv(*(v / 255 for v in values))[0] * 360
        hues.append((hue + 180) % 360 - 180)
        kept += abs(hues[-1]) < 1.5
    assert -40 < min(hues) < -25  # 18 of OpenCV's 180 steps are 36 degrees
    assert 25 < max(hues) < 40
    assert 70 < kept < 130


def test_hue_and_saturation_are_those_of_hsv():
    from vitreg.data.views.dense_augment import _saturated_and_turned

    image = torch.tensor([200.0, 60.0, 30.0])[:, None, None].expand(3, 2, 2)
    found = _saturated_and_turned(image, 0.5, 1 / 8)[:, 0, 0] / 255
    h, s, v = colorsys.rgb_to_hsv(200 / 255, 60 / 255, 30 / 255)
    expected = colorsys.hsv_to_rgb(h + 1 / 8, s / 2, v)
    assert found.tolist() == pytest.approx(expected, abs=0.02)


def test_nyud_crops_keep_picture_and_depth_together():
    coarse = torch.rand(48, 64, generator=draw(0))
    depth = F.interpolate(coarse[None, None], (480, 640), mode="bilinear")[0, 0] * 5 + 1
    image = (depth * 40).to(torch.uint8).expand(3, -1, -1).clone()
    for seed in range(6):
        crop, found = nyud_view()(image, depth, draw(seed))
        assert crop.shape == (3, 416, 544)
        assert found.shape == (416, 544)
        known = found > 0
        assert known.float().mean() > 0.9  # a turned picture leaves corners, whose depth is unknown
        match = np.corrcoef(crop[0][known].float().numpy(), found[known].numpy())[0, 1]
        assert match > 0.97


def test_nyud_crops_refuse_other_sizes():
    with pytest.raises(UserError, match=r"480x640 pixels, not 240x320; use protocol short"):
        nyud_view()(torch.zeros(3, 240, 320, dtype=torch.uint8), torch.ones(240, 320), draw())


def test_light_changes_within_its_ranges():
    image = torch.full((3, 2, 2), 128, dtype=torch.uint8)
    values = torch.stack([colour_of_light(image, draw(seed))[:, 0, 0] for seed in range(100)]).float() / 255
    grey = 128 / 255
    assert values.min() >= grey**1.1 * 0.75 * 0.9 - 0.01
    assert values.max() <= grey**0.9 * 1.25 * 1.1 + 0.01
    assert values.std() > 0.05
