"""Chance, worked out, against guessing many times."""

import numpy as np
import pytest
import torch

from vitreg.probes.chance import derangement, recall_by_chance
from vitreg.probes.retrieval import recall


def test_recall_by_chance_is_the_mean_over_random_features():
    image_of = np.array([0] * 5 + [1] * 2 + list(range(2, 12)))
    expected = recall_by_chance(image_of, 12)
    draw = torch.Generator().manual_seed(0)
    tries = [
        recall(
            torch.randn(12, 64, generator=draw),
            torch.randn(len(image_of), 64, generator=draw),
            torch.from_numpy(image_of),
        )
        for _ in range(400)
    ]
    for name, value in expected.items():
        found = np.array([t[name] for t in tries])
        assert abs(found.mean() - value) < 4 * found.std() / len(found) ** 0.5, name


def test_five_captions_of_each_of_a_thousand_images():
    found = recall_by_chance(np.repeat(np.arange(1000), 5), 1000)
    assert found["text_to_image_r10"] == pytest.approx(1.0)
    assert found["image_to_text_r1"] == pytest.approx(0.1)


def test_more_places_than_captions_find_everything():
    assert set(recall_by_chance(np.array([0, 1]), 2, ks=(2, 9)).values()) == {100.0}


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
def test_a_derangement_leaves_nothing_in_its_place(count):
    order = derangement(count, seed=3)
    assert sorted(order.tolist()) == list(range(count))
    assert not (order == np.arange(count)).any()
    assert derangement(count, seed=3).tolist() == order.tolist()
