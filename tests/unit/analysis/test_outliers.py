"""Detectors against distributions whose answer is known. No seed or constant here was chosen for the outcome."""

import numpy as np
import pytest

from vitreg.analysis import outliers
from vitreg.analysis.norms import NormHistogram
from vitreg.errors import UserError

N = 20_000


def unimodal(name, rng):
    return {
        "normal": lambda: rng.normal(0, 0.25, N),
        "wide normal": lambda: rng.normal(0, 0.5, N),
        "student t5": lambda: 0.3 * rng.standard_t(5, N),
        "student t3": lambda: 0.25 * rng.standard_t(3, N),
        "laplace": lambda: rng.laplace(0, 0.3, N),
        "skewed": lambda: rng.normal(0, 0.15, N) + rng.exponential(0.25, N),
        "gamma": lambda: np.log(rng.gamma(4, 1, N)),
        "gumbel": lambda: rng.gumbel(0, 0.3, N),
        "uniform": lambda: rng.uniform(-0.6, 0.6, N),
    }[name]()


UNIMODAL = ("normal", "wide normal", "student t5", "student t3", "laplace", "skewed", "gamma", "gumbel", "uniform")


@pytest.mark.parametrize("side", ["high", "low"])
@pytest.mark.parametrize("name", UNIMODAL)
def test_a_heavy_or_skewed_tail_is_no_second_mode(name, side):
    found = [
        outliers.mixture(NormHistogram.of(np.exp(3 + unimodal(name, np.random.default_rng(seed)))), side).found
        for seed in range(4)
    ]
    assert not any(found)


@pytest.mark.parametrize("side", ["high", "low"])
@pytest.mark.parametrize(("share", "factor"), [(0.001, 4.0), (0.005, 3.0), (0.02, 10.0), (0.1, 3.0)])
def test_a_second_mode_is_found_on_its_side_and_only_there(share, factor, side):
    rng = np.random.default_rng(int(1000 * share))
    sign = 1 if side == "high" else -1
    outlying = rng.random(N) < share
    log = np.where(outlying, rng.normal(sign * np.log(factor), 0.15, N), rng.normal(0, 0.2, N))
    histogram = NormHistogram.of(np.exp(log) * 30)
    detection = outliers.mixture(histogram, side)
    assert detection.found
    assert detection.share == pytest.approx(outlying.mean(), rel=0.15)
    assert detection.ratio == pytest.approx(factor, rel=0.1)
    assert not outliers.mixture(histogram, "low" if side == "high" else "high").found


def test_a_second_mode_closer_than_twice_the_median_is_refused():
    rng = np.random.default_rng(0)
    log = np.concatenate([rng.normal(0, 0.05, N), rng.normal(np.log(1.6), 0.05, N // 50)])
    assert not outliers.mixture(NormHistogram.of(np.exp(log)), "high").found


def test_a_mode_that_holds_a_third_of_the_tokens_is_not_called_outliers():
    rng = np.random.default_rng(0)
    log = np.concatenate([rng.normal(0, 0.1, 2 * N), rng.normal(1.5, 0.1, N)])
    assert not outliers.mixture(NormHistogram.of(np.exp(log)), "high").found


def test_simple_rules_are_what_they_say():
    values = np.concatenate([np.full(960, 10.0), np.linspace(9, 11, 30), np.full(10, 50.0)])
    histogram = NormHistogram.of(values)
    assert outliers.ratio(histogram, "high", 3.0).share == pytest.approx(0.01)
    assert outliers.absolute(histogram, "high", 45.0).found
    assert not outliers.absolute(histogram, "high", 150.0).found
    median = np.median(values)
    expected = median + 5 * 1.4826 * np.median(np.abs(values - median))
    assert outliers.mad(histogram, "high", 5).threshold == pytest.approx(expected, rel=0.05)


def test_a_percentile_marks_its_share_of_anything_and_never_says_found():
    histogram = NormHistogram.of(np.exp(np.random.default_rng(0).normal(0, 0.1, N)))
    detection = outliers.percentile(histogram, "high", 98)
    assert detection.share == pytest.approx(0.02, abs=0.005)
    assert not detection.found
    with pytest.raises(UserError, match="percentile finds its share"):
        outliers.detector("percentile:98")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixtur", "Did you mean 'mixture'"),
        ("mad:lots", "no number"),
        ("ratio:-1", "positive"),
        ("mixture:2", "no parameter"),
    ],
)
def test_a_wrong_detector_is_one_clear_sentence(name, message):
    with pytest.raises(UserError, match=message):
        outliers.detector(name)


def test_em_agrees_with_scikit_learn_from_the_same_start():
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    data = np.concatenate([rng.normal(0, 0.2, 4000), rng.normal(1.5, 0.3, 400)])
    counts, edges = np.histogram(data, bins=600)
    middles = (edges[1:] + edges[:-1]) / 2
    start = np.array([[0.9, 0.1], [0.0, 1.4], [0.3, 0.3]])
    ours = outliers._em(middles, counts.astype(float), start[None], steps=2000, tolerance=1e-9)[0]
    theirs = GaussianMixture(
        2,
        weights_init=start[0],
        means_init=start[1][:, None],
        precisions_init=1 / start[2][:, None, None] ** 2,
        tol=1e-9,
        max_iter=2000,
    ).fit(data[:, None])
    np.testing.assert_allclose(ours[0], theirs.weights_, atol=2e-3)
    np.testing.assert_allclose(ours[1], theirs.means_[:, 0], atol=2e-3)
    np.testing.assert_allclose(ours[2], np.sqrt(theirs.covariances_[:, 0, 0]), atol=3e-3)


def test_a_detector_of_the_list_is_found_by_its_name_and_shown_with_its_parameter(monkeypatch):
    def quartiles(histogram, side="high", reach=1.5):
        return outliers.beyond(histogram, side, histogram.quantile(0.75) * reach)

    monkeypatch.setitem(outliers.DETECTORS, "quartiles", quartiles)
    monkeypatch.setitem(outliers.DETECTORS, "plain", lambda histogram, side: outliers.mad(histogram, side))
    shown = outliers.known_detectors().split(", ")
    assert shown[:4] == ["mixture", "mad[:k]", "ratio[:factor]", "absolute[:cutoff]"]
    assert {"quartiles[:reach]", "plain"} <= {*shown}
    assert "percentile" not in shown
    assert outliers.detector("quartiles") is quartiles
    with pytest.raises(UserError, match="quartiles, plain"):
        outliers.detector("percentile")
    for name in ("mixture", "plain"):
        with pytest.raises(UserError, match=f"the {name} detector takes no parameter"):
            outliers.detector(f"{name}:2")
