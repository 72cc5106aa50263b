import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitreg.analysis.norms import BINS, NormHistogram, decode, edge_index, edges, encode, pack, to_bin, unpack


@given(st.lists(st.floats(2.0**-126, 2.0**127), min_size=1, max_size=50))
def test_a_code_keeps_a_norm_to_a_fiftieth_of_a_percent(norms):
    values = np.array(norms)
    assert np.abs(decode(encode(values)) / values - 1).max() < 2e-4


def test_every_norm_float32_holds_is_measured_and_infinite_ones_are_refused():
    ends = np.array([0.0, 2.0**-149, 1e-12, 3.4e38])
    assert decode(encode(ends))[0] == 0
    np.testing.assert_allclose(decode(encode(ends))[2:], ends[2:], rtol=2e-4)
    assert (np.diff(encode(ends)) > 0).all(), "the smallest norm above 0 is not 0"
    with pytest.raises(FloatingPointError, match="not finite"):
        encode(np.array([1.0, np.inf]))


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=9), st.floats(1e-30, 1e30), st.booleans())
def test_packed_codes_come_back_exactly_at_any_size_and_zeros_stay_zeros(norms, scale, zero):
    codes = encode(np.array([norms, norms]) * scale * [[1.0], [1e-6]])
    if zero:
        codes[:, 0] = 0
    assert unpack(*pack(codes)).tolist() == codes.tolist()


@pytest.mark.parametrize("zero", [False, True])
def test_a_fit_sees_at_most_sixteen_octaves_around_the_median_and_every_norm(zero):
    values = np.exp(np.random.default_rng(0).normal(2, 0.2, 500)) * 1e20
    values[0] = 0 if zero else values[0]
    x, counts = NormHistogram.of(values).coarse_log()
    assert counts.sum() == 500
    assert (x[0] == pytest.approx(np.log(np.median(values)) - 16 * np.log(2), abs=0.05)) == zero


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.05, 1.0))
def test_quantiles_agree_with_numpy_within_a_bin(seed, spread):
    values = np.sort(np.exp(np.random.default_rng(seed).normal(2, spread, 2000)))
    histogram = NormHistogram.of(values)
    for q in (0.01, 0.25, 0.5, 0.9, 0.99):
        rank = int(q * 2000)
        assert values[rank - 1] * 0.994 <= histogram.quantile(q) <= values[rank] * 1.006
    deviation = np.median(np.abs(values - np.median(values)))
    assert histogram.absolute_deviation(histogram.median) == pytest.approx(deviation, rel=0.1)


@given(st.floats(2.0**-148, 2.0**127))
def test_a_threshold_on_a_bin_edge_splits_codes_exactly_as_bins(threshold):
    edge = edges()[edge_index(threshold)]
    around = edge * np.array([0.97, 0.999, 1.001, 1.03])
    assert (to_bin(encode(around)) >= edge_index(threshold)).tolist() == [False, False, True, True]


def test_split_covers_every_norm_once():
    histogram = NormHistogram.of(np.exp(np.random.default_rng(0).normal(size=1000)))
    for side in ("high", "low"):
        inside, outside = histogram.split(1.7, side)
        assert inside.total + outside.total == 1000
        assert (outside.median > inside.median) == (side == "high")


def test_a_pooled_histogram_is_the_sum_of_its_parts():
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(size=500), rng.lognormal(size=300)
    together = NormHistogram.of(np.concatenate([a, b])).counts
    assert (together == NormHistogram.of(a).counts + NormHistogram.of(b).counts).all()
    assert together.shape == (BINS,)
