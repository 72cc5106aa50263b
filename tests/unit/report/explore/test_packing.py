"""Queries and keys of the explorer: which of the small formats keeps attention within .01 where logits reach 200."""

import numpy as np
import pytest

from vitreg.report.explore.packing import centred, in_8_bits, in_16_bits, log_sums, packed, unpacked

TOKENS, WIDTH = 300, 64
ALLOWED = 0.01  # of a weight


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def vectors(direction, of_keys=1.0, noise=0.5):
    """q and k [1, N, d] whose logits are near 200 along a direction; `of_keys` of the keys lie along it."""
    random = np.random.default_rng(0)
    q, k = (random.normal(size=(1, TOKENS, WIDTH)) * noise for _ in range(2))
    q += 14.1 * direction
    k[:, : round(of_keys * TOKENS)] += 14.1 * direction
    return q.astype(np.float32), k.astype(np.float32)


SPREAD = np.random.default_rng(1).normal(size=WIDTH)
SPREAD /= np.linalg.norm(SPREAD)
ONE = np.eye(WIDTH)[3]  # a massive activation: one entry holds it all
CASES = {
    "every key, spread": vectors(SPREAD),  # all logits of a row near 200, as in the third block of a DINOv2
    "every key, one entry": vectors(ONE),
    "half of the keys, spread": vectors(SPREAD, 0.5),
    "half of the keys, one entry": vectors(ONE, 0.5),
    "few keys, one entry": vectors(ONE, 0.02),
    "all entries large": tuple(
        (2.6 * np.random.default_rng(seed).normal(size=(1, TOKENS, WIDTH))).astype(np.float32) for seed in (2, 3)
    ),
}


def half(x):
    return x.astype(np.float16).astype(np.float32)


def whole(into):
    def there_and_back(x):
        numbers, factors = into(x)
        return numbers * factors[..., None]

    return there_and_back


def error(case, keep):
    """The largest error of a weight after queries and keys went through a format, keys centred as the page keeps them."""
    q, k = CASES[case]
    true = softmax(q.astype(np.float64) @ k.transpose(0, 2, 1))
    kept = softmax(keep(q).astype(np.float64) @ keep(centred(k, np.ones(TOKENS, bool))).transpose(0, 2, 1))
    return np.abs(kept - true).max()


@pytest.mark.parametrize("case", CASES)
def test_16_bit_numbers_keep_attention_at_logits_of_200(case):
    q, k = CASES[case]
    assert np.abs(q @ k.transpose(0, 2, 1)).max() > 200
    assert error(case, whole(in_16_bits)) < ALLOWED / 5


def test_half_precision_and_8_bits_do_not():
    """So neither is used: half precision takes the same bytes."""
    assert max(error(case, half) for case in CASES) > ALLOWED
    assert min(error(case, whole(in_8_bits)) for case in CASES) > ALLOWED


def test_centred_keys_give_the_same_attention_and_absent_ones_are_no_part_of_the_mean():
    q, k = (x.astype(np.float64) for x in CASES["half of the keys, one entry"])
    there = np.arange(TOKENS) % 7 > 0
    moved = centred(np.where(there[:, None], k, 1e6), there)
    assert np.abs(moved[0, there].mean(0)).max() < 1e-4
    logits, shifted = q @ k.transpose(0, 2, 1), q @ moved.transpose(0, 2, 1)
    assert np.allclose(softmax(logits[..., there]), softmax(shifted[..., there]), atol=1e-4)


def test_sums_divide_rows_and_columns_alike_also_where_heads_share_keys():
    random = np.random.default_rng(5)
    q, k = random.normal(size=(4, 9, 8)), random.normal(size=(2, 11, 8))
    there = np.array([True] * 8 + [False] + [True] * 2)
    sums = log_sums(q, k, there)
    logits = np.stack([q[head] @ k[head // 2].T for head in range(4)])
    assert np.allclose(np.exp(logits[..., there] - sums[..., None]).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.int8, np.uint16, np.uint8])
def test_arrays_come_back_as_they_were(kind):
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    back = unpacked(packed(values))
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)


def test_a_vector_of_zeros_stays_one():
    numbers, factors = in_16_bits(np.zeros((2, 4), np.float32))
    assert not numbers.any()
    assert not factors.any()
