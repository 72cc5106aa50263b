"""Kinds of sinks: against loops in float64 on random attention, and on attention of each kind made by hand."""

import math

import numpy as np
import pytest
import torch

from vitreg.analysis import sinks
from vitreg.backbones.trace import QKV, ReadRows
from vitreg.records import SINK_KINDS
from vitreg.tokens import TokenLayout

QUERIES, KEYS, WIDTH = 17, 26, 8


def draw(seed, images=6, heads=4):
    """Rows [B, heads, Q, M] of which about half concentrate, and values [B, heads, M, d] some of which are short."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((images, heads, QUERIES, KEYS))
    for image, head in np.ndindex(images, heads):
        taken = rng.random(QUERIES) < rng.choice([0.0, 0.7, 0.95, 1.0])
        logits[image, head, taken, rng.integers(KEYS)] += rng.uniform(2, 9)
    rows = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    values = rng.standard_normal((images, heads, KEYS, WIDTH)) + rng.choice([0, 3], (images, heads, 1, 1))
    values *= rng.choice([0.05, 0.4, 1, 2], (images, heads, KEYS, 1))
    return torch.from_numpy(rows), torch.from_numpy(values)


def read(rows, values):
    which = sinks.concentrated(rows)
    held = QKV(rows.new_zeros(*rows.shape[:2], KEYS, WIDTH), values, values, 1.0)
    return held.read_by(rows.float(), which)


def by_hand(rows, values):
    """{(image, head): (key, kind, value ratio, stable rank)} by the definition, a loop in float64."""
    found = {}
    for image, head in np.ndindex(*rows.shape[:2]):
        a, v = rows[image, head].numpy(), values[image, head].numpy()
        for key in range(a.shape[1]):
            if sum(a[q, key] >= 0.5 for q in range(len(a))) / len(a) < 0.9:
                continue
            ratio = math.sqrt((v[key] ** 2).sum()) / np.mean([math.sqrt((each**2).sum()) for each in v])
            lengths = np.linalg.svd(a @ v, compute_uv=False)
            rank = (lengths**2).sum() / lengths[0] ** 2
            kind = "no-op" if ratio <= 0.2 else "broadcast" if ratio >= 0.5 and rank <= 1.5 else "unclear"
            found[image, head] = (key, kind, ratio, rank)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_sinks_are_those_of_the_definition(seed):
    rows, values = draw(seed)
    found, truth = sinks.find_sinks(read(rows, values)), by_hand(rows, values)
    assert {kind for _, kind, _, _ in truth.values()} >= {"no-op", "unclear"} or seed
    places = list(zip(found.image.tolist(), found.head.tolist(), strict=True))
    assert places == sorted(truth)
    for i, place in enumerate(places):
        key, kind, ratio, rank = truth[place]
        assert (int(found.key[i]), SINK_KINDS[found.kind[i]]) == (key, kind)
        assert float(found.value_ratio[i]) == pytest.approx(ratio, rel=1e-5)
        assert float(found.stable_rank[i]) == pytest.approx(rank, rel=0.011)


def test_random_draws_hold_every_kind():
    kinds = [kind for seed in range(5) for _, kind, _, _ in by_hand(*draw(seed)).values()]
    assert set(kinds) == set(SINK_KINDS)


def planted(held, norm, spread=0.0):
    """One head: all 17 queries but some put `held` on key 3, whose value has `norm` times the length of the others."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.full((QUERIES, KEYS), (1 - held) / (KEYS - 1))
    rows[:, 3] = held
    if spread:  # the rest of their attention goes to a key of its own for each query
        rows[:, :] = 0
        rows[:, 3] = held
        rows[torch.arange(QUERIES), 5 + torch.arange(QUERIES)] = 1 - held
    values = torch.nn.functional.normalize(torch.randn(KEYS, 32, generator=generator), dim=1)
    values[3] *= norm
    return ReadRows(
        torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), rows[None], (rows @ values)[None],
        values.norm(dim=1)[None],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (planted(0.9, 0.0), "no-op"),
        (planted(0.9, 0.15), "no-op"),
        (planted(0.9, 1.0), "broadcast"),
        (planted(0.9, 0.35), "unclear"),  # neither short nor long
        (planted(0.5, 0.55, spread=1), "unclear"),  # long enough, but what is read differs from query to query
    ],
)
def test_planted_sinks_are_of_their_kind(given, kind):
    found = sinks.find_sinks(given)
    assert (found.key.tolist(), [SINK_KINDS[each] for each in found.kind]) == ([3], [kind])


def test_a_sink_needs_nine_tenths_of_the_queries():
    assert (sinks.enough(17), sinks.enough(16), sinks.enough(20), sinks.enough(10), sinks.enough(1)) == (
        16,
        15,
        18,
        9,
        1,
    )
    rows = torch.full((2, 17, 5), 0.1)
    rows[0, :16, 2] = 0.6
    rows[1, :15, 2] = 0.6
    assert sinks.sink_keys(rows).tolist() == [2, -1]


def test_queries_that_concentrate_on_different_keys_share_no_sink():
    rows = torch.eye(17, 20)[None]
    assert sinks.concentrated(rows).tolist() == [True]
    assert sinks.sink_keys(rows).tolist() == [-1]


def test_the_stable_rank_is_that_of_a_decomposition():
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        sizes = torch.rand(17, generator=generator) ** (8 * torch.rand(1, generator=generator))
        left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in (17, 40))
        mixed = left @ torch.diag(sizes) @ right[:17]
        lengths = torch.linalg.svdvals(mixed.double())
        truth, found = float((lengths**2).sum() / lengths[0] ** 2), float(sinks.stable_rank(mixed))
        assert found == pytest.approx(truth, rel=1e-5 if truth < 1.7 else 0.011)
    assert sinks.stable_rank(torch.zeros(3, 17, 8)).tolist() == [0, 0, 0]
    assert sinks.stable_rank(torch.ones(1, 17, 8) * 1e-12).tolist() == pytest.approx([1])


def test_sinks_are_counted_where_they_stand():
    layout = TokenLayout(cls=(2,), registers=(0,), other=(), patches=(1, 3, -1, 4), grid=(2, 2))
    keys = torch.tensor([2, 1, 1, 4, 6])  # cls, patch 0 twice, patch 3, a key of no token
    found = sinks.FoundSinks(
        torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1]), keys, keys * 0, keys + 0.0, keys + 1.0
    )
    places, patches = sinks.keys_by_place(found, 3, layout, 7)
    assert dict(zip(sinks.PLACES, places.tolist(), strict=True)) == {
        "cls": 1,
        "register": 0,
        "other": 0,
        "patch": 3,
        "extra": 1,
    }
    assert patches.tolist() == [[2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    numbers = sinks.numbers_of_heads(found, 3, own=3, heads=4)
    assert numbers[..., -1].sum(0).tolist() == [3, 3, 3, 0]  # the fourth head is of wider blocks
    assert numbers[0, 1].tolist() == [1, 0, 0, 1, 2, 1]
    assert numbers[2].sum() == 3
    assert not sinks.numbers_of_heads(found, 3, own=5, heads=4).any()  # the anatomy is wrong: not measured
