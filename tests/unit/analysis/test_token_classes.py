import numpy as np
import pytest
import torch

from vitreg.analysis.outliers import detector
from vitreg.analysis.token_classes import ByClass, came_in, pick_many, pick_one, random_keys, rule_at_peak


def norms_with(share, factor, n=20_000):
    rng = np.random.default_rng(0)
    norms = 20 * np.exp(0.12 * rng.standard_normal(n))
    norms[: int(share * n)] *= factor
    return norms.astype(np.float32)


@pytest.mark.parametrize(("factor", "side"), [(8.0, "high"), (1 / 8, "low")])
def test_the_default_detector_splits_the_norms_on_either_side(factor, side):
    norms = norms_with(0.02, factor)
    rule, _, _ = rule_at_peak(torch.from_numpy(norms)[None, None], None, detector("mixture"))
    assert rule.found
    assert rule.side == side
    found = rule(torch.from_numpy(norms).view(100, 200))
    assert torch.equal(found.flatten(), torch.arange(20_000) < 400)


def test_no_outliers_are_found_in_one_mode():
    norms = norms_with(0.0, 1.0)
    rule, _, _ = rule_at_peak(torch.from_numpy(norms)[None, None], None, detector("mixture"))
    assert not rule.found
    assert not rule(torch.from_numpy(norms)[None]).any()


@pytest.mark.parametrize(("factor", "side"), [(8.0, "high"), (1 / 8, "low")])
def test_outliers_that_came_in_with_their_norm_are_told_from_made_ones(factor, side):
    norms = norms_with(0.02, factor)
    rule, _, _ = rule_at_peak(torch.from_numpy(norms)[None, None], None, detector("mixture"))
    assert rule.side == side
    mixed = torch.from_numpy(np.random.default_rng(1).permutation(norms)).view(100, 200)
    assert came_in(rule, mixed, mixed)  # the blocks changed nothing
    assert not came_in(rule, mixed, torch.ones_like(mixed))  # before the blocks all were alike
    assert not came_in(rule, mixed, None)
    locked = torch.full_like(mixed, float(np.median(norms)))
    locked[:, 17] = float(norms[0])  # one place in every image: positions, not pixels, explain it
    assert not came_in(rule, locked, locked)


def layer(share, factor, seed):
    return torch.from_numpy(np.random.default_rng(seed).permutation(norms_with(share, factor))).view(100, 200)


def test_the_peak_is_the_layer_where_outliers_stand_out_most():
    norms = torch.stack([layer(0, 1, 0), layer(0.02, 4, 1), layer(0.02, 9, 2), layer(0.02, 5, 3), layer(0, 1, 4)])
    rule, peak, had_come_in = rule_at_peak(norms, [torch.ones(100, 200)] * len(norms), detector("mixture"))
    assert (peak, had_come_in) == (2, False)
    assert torch.equal(rule(norms[2]), norms[2] > 60)


def test_layers_whose_outliers_came_in_with_their_norm_are_passed_over():
    entered = layer(0.02, 9, 2)
    made = layer(0.02, 4, 1)
    rule, peak, had_come_in = rule_at_peak([entered, made], [entered] * 2, detector("mixture"))
    assert (peak, rule.found, had_come_in) == (1, True, False)
    rule, peak, had_come_in = rule_at_peak([entered, entered], [entered] * 2, detector("mixture"))
    assert (peak, rule.found, had_come_in) == (None, False, True)


def test_keys_follow_from_seed_and_image_alone():
    together = random_keys(torch.tensor([3, 8, 5]), 10, seed=1)
    assert torch.equal(random_keys(torch.tensor([8]), 10, seed=1)[0], together[1])
    assert not torch.equal(random_keys(torch.tensor([8]), 10, seed=2)[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_one_member_is_picked_uniformly_or_none():
    members = torch.tensor([True, False, True, False, True]).repeat(3000, 1)
    members[-1] = False
    picked = pick_one(members, random_keys(torch.arange(3000), 5, seed=0))
    assert picked[-1] == -1
    counts = picked[:-1].bincount(minlength=5)
    assert counts[1] == counts[3] == 0
    assert (counts[[0, 2, 4]] / 2999 - 1 / 3).abs().max() < 0.03


def test_as_many_members_are_picked_as_asked_for_or_there_are():
    members = torch.tensor([[True, True, False, True, False, True], [False, True, False, False, False, False]])
    keys = random_keys(torch.arange(2), 6, seed=0)
    for count in range(6):
        picked = pick_many(members, torch.full((2,), count), keys)
        assert picked.sum(1).tolist() == [min(count, 4), min(count, 1)]
        assert not (picked & ~members).any()


def test_means_by_class_are_those_of_plain_numpy():
    rng = np.random.default_rng(0)
    outliers, values = rng.random((150, 9)) < 0.2, rng.random((2, 150, 9))
    found, other = ByClass(("a", "b")), ByClass(("a", "b"))
    for tally, part in ((found, slice(0, 70)), (found, slice(70, 100)), (other, slice(100, 150))):
        tally.add(
            torch.arange(150)[part], torch.from_numpy(outliers[part]), [torch.from_numpy(v[part]) for v in values]
        )
    arrays = iter([other.counts, other.sums, other._images])
    found.merge(lambda own: own + next(arrays))
    assert found.images == 150
    for row, name in enumerate(("a", "b")):
        assert found.overall(name) == pytest.approx(values[row].mean())
        for flag in (False, True):
            assert found.tokens(outliers=flag) == (outliers == flag).sum()
            assert found.mean(name, outliers=flag) == pytest.approx(values[row][outliers == flag].mean())


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_interval_of_the_difference_covers_what_it_should(shift):
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        outliers = torch.from_numpy(rng.random((80, 12)) < 0.1)
        values = torch.from_numpy(rng.standard_normal((80, 12))) + shift * outliers
        found = ByClass(("a",))
        found.add(torch.arange(80), outliers, [values])
        low, high = found.difference("a", resamples=300)
        assert low < high
        covered += low < shift < high
    assert covered >= 50  # 95 % wanted of 60, and a bootstrap over 64 groups is a little narrow


def test_the_interval_of_all_tokens_is_that_of_their_mean_over_images():
    """Images whose tokens all agree: as many trials as images, however many tokens there are."""
    rng = np.random.default_rng(0)
    right = torch.from_numpy((rng.random(64) < 0.5).astype(float))[:, None].expand(64, 100)
    found = ByClass(("a",))
    found.add(torch.arange(64), torch.zeros(64, 100, dtype=torch.bool), [right])
    low, high = found.interval("a")
    share = float(right.mean())
    half = 1.96 * np.sqrt(share * (1 - share) / 64)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.02)
    few = ByClass(("a",))
    few.add(torch.arange(3), torch.zeros(3, 4, dtype=torch.bool), [torch.ones(3, 4)])
    assert few.interval("a") is None


def test_classes_without_tokens_have_no_mean_and_no_difference():
    found = ByClass(("a",))
    found.add(torch.arange(5), torch.zeros(5, 3, dtype=torch.bool), [torch.ones(5, 3)])
    assert found.mean("a", outliers=True) is None
    assert found.difference("a") is None
    assert ByClass(("a",)).overall("a") is None
    with pytest.raises(ValueError, match="2 values"):
        found.add(torch.arange(5), torch.zeros(5, 3, dtype=torch.bool), [torch.ones(5, 3)] * 2)
