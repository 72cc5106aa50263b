import math

import pytest
import torch
import torch.nn.functional as F

from vitreg.errors import UserError
from vitreg.probes.dense.fit import ADE20K, NYUD, HeadTraining, fit_head
from vitreg.probes.dense.heads import LinearSegmenter


def test_rates_are_those_of_the_official_configurations():
    assert ADE20K.rate_at(0) == pytest.approx(1e-3 * 1e-6)
    assert ADE20K.rate_at(750) == pytest.approx(1e-3 * (1 - 750 / 40_000) * (1 - 0.5 * (1 - 1e-6)))
    assert ADE20K.rate_at(1500) == pytest.approx(1e-3 * (1 - 1500 / 40_000))
    assert ADE20K.rate_at(20_000) == pytest.approx(0.5e-3)
    assert NYUD.rate_at(0) == pytest.approx(1e-7)
    assert NYUD.rate_at(12_800) == pytest.approx(1e-4 * (1 + math.cos(math.pi / 3)) / 2)
    assert NYUD.rate_at(38_399) < 1e-11


SHORT = HeadTraining(steps=60, rate=0.05, warmup=5, warmup_ratio=0.1, curve="poly", weight_decay=1e-4, clip=35.0)


def task(seed):
    x = torch.randn(8, 12, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[..., 0] > x[..., 1]).long().unflatten(1, (3, 4))


def test_a_head_learns_what_is_linear_and_the_same_from_the_same_seed():
    x, y = task(0)
    weights = []
    for _ in range(2):
        head = LinearSegmenter(6, 2, seed=0)
        losses = fit_head(head, lambda _, head=head: F.cross_entropy(head(x, (3, 4)), y), SHORT)
        weights.append(head.linear.weight.detach().clone())
        assert len(losses) == 60
        assert losses[-1] < 0.3 < losses[0]
        assert not head.training
    assert torch.equal(*weights)
    unseen, truth = task(1)
    assert (head(unseen, (3, 4)).argmax(1) == truth).float().mean() > 0.9


def test_features_that_are_not_finite_are_named_as_the_cause():
    head = LinearSegmenter(6, 2)
    x = torch.full((1, 12, 6), torch.inf)
    with pytest.raises(UserError, match=r"loss of the head is nan at step 0: features are not finite"):
        fit_head(head, lambda _: head(x, (3, 4)).mean(), SHORT)
