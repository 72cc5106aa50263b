"""Recall against sorting by hand."""

import pytest
import torch
import torch.nn.functional as F

from vitreg.probes.retrieval import recall


def naive(images, captions, image_of, k):
    """Sort all captions for each image, all images for each caption."""
    similarity = F.normalize(images, dim=-1) @ F.normalize(captions, dim=-1).T
    to_text = [
        any(int(image_of[t]) == i for t in similarity[i].argsort(descending=True)[:k].tolist())
        for i in range(len(images))
    ]
    to_image = [
        int(image_of[t]) in similarity[:, t].argsort(descending=True)[:k].tolist() for t in range(len(captions))
    ]
    return 100 * sum(to_text) / len(to_text), 100 * sum(to_image) / len(to_image)


def test_recall_equals_sorting():
    generator = torch.Generator().manual_seed(1)
    images, captions = torch.randn(12, 6, generator=generator), torch.randn(30, 6, generator=generator)
    image_of = torch.cat([torch.arange(12), torch.randint(12, (18,), generator=generator)])
    found = recall(images, captions, image_of)
    for k in (1, 5, 10):
        to_text, to_image = naive(images, captions, image_of, k)
        assert abs(found[f"image_to_text_r{k}"] - to_text) < 1e-3
        assert abs(found[f"text_to_image_r{k}"] - to_image) < 1e-3


def test_features_that_match_find_everything_and_shuffled_ones_do_not():
    features = torch.eye(20)
    assert recall(features, features, torch.arange(20))["image_to_text_r1"] == 100
    assert recall(features, features, torch.arange(20).roll(1))["text_to_image_r1"] == 0


def test_features_that_say_nothing_find_nothing():
    same = torch.ones(30, 4)
    assert set(recall(same, same, torch.arange(30)).values()) == {0.0}


def test_nan_counts_against():
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    broken = features.clone()
    broken[4] = torch.nan
    image_of = torch.arange(20)
    assert recall(features, features, image_of, ks=(1,)) == {"image_to_text_r1": 100, "text_to_image_r1": 100}
    found = recall(broken, features, image_of, ks=(1, 2))
    assert found["image_to_text_r1"] == pytest.approx(95)
    assert found["text_to_image_r1"] == 0  # the broken image is before every right one
    assert found["text_to_image_r2"] == pytest.approx(95)
    nothing = torch.full_like(features, torch.nan)
    assert set(recall(nothing, features, image_of).values()) == {0.0}
