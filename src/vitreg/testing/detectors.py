"""The conformance suite of detectors, on norm distributions with known answers."""

from __future__ import annotations

import math

import numpy as np

from vitreg.analysis.norms import NormHistogram, edge_index
from vitreg.analysis.outliers import Detection, Detector

TOKENS = 20_000
SCALE = 2.0**10
ODD = {
    "no norm": [],
    "one norm": [3.0],
    "all alike": [3.0] * 100,
    "only zeros": [0.0] * 100,
    "two values": [1.0] * 99 + [1e30],
}


def check_detector(detector: Detector, *, relative: bool = True) -> dict[str, Detection]:
    """Check that a detector keeps every promise that verdicts rely on.

    On the high side it finds a planted second mode of 2 % at ten times the norm, and nothing in one skewed mode. It is
    deterministic, its share is what lies beyond its threshold, and odd distributions raise no error.

    Args:
        detector: (histogram, side) → Detection.
        relative: a model whose norms are 1024 times larger gets the same answer. Fixed cutoffs cannot promise that.
    Returns:
        its answer for each distribution, by name.
    Raises:
        AssertionError: naming the promise and how it was broken.
    """
    rng = np.random.default_rng(0)
    bulk = np.exp(rng.normal(3, 0.25, TOKENS))
    planted = np.where(rng.random(TOKENS) < 0.02, 10 * bulk, bulk)
    cases = {"planted": planted, "one mode": bulk} | {name: np.array(norms) for name, norms in ODD.items()}
    said = {name: _checked(detector, name, norms) for name, norms in cases.items()}
    found = said["planted"]
    assert found.found, f"outliers of ten times the norm, 2 % of the tokens, are not found: {found}"
    assert found.ratio is not None, "what is found has a ratio"
    assert abs(found.share - 0.02) < 0.005, f"the share is {found.share:.4f}, and 2 % were planted"
    assert abs(found.ratio / 10 - 1) < 0.15, f"the ratio is {found.ratio:.2f}, and 10 was planted"
    assert not said["one mode"].found, f"something is found in one mode: {said['one mode']}"
    if relative:
        for name in ("planted", "one mode"):
            _scaled(detector, name, cases[name], said[name])
    return said


def _checked(detector: Detector, name: str, norms: np.ndarray) -> Detection:
    histogram = NormHistogram.of(norms)
    said = detector(histogram, "high")
    assert isinstance(said, Detection), f"{name}: {type(said).__name__} instead of a Detection"
    assert said == detector(histogram, "high"), f"{name}: the same norms get another answer"
    assert said.side == "high", f"{name}: asked for the high side, and answers for the {said.side} one"
    assert 0 <= said.share <= 1, f"{name}: a share of {said.share}"
    for value in (said.threshold, said.ratio):
        assert value is None or math.isfinite(value), f"{name}: threshold {said.threshold}, ratio {said.ratio}"
    if said.found:
        assert said.threshold is not None, f"{name}: found without a threshold"
    if said.threshold is not None and len(norms):
        beyond = histogram.counts[edge_index(said.threshold) :].sum() / histogram.counts.sum()
        assert abs(beyond - said.share) < 1e-9, (
            f"{name}: a share of {said.share}, and {beyond} lie beyond the threshold"
        )
    return said


def _scaled(detector: Detector, name: str, norms: np.ndarray, said: Detection) -> None:
    other = detector(NormHistogram.of(norms * SCALE), "high")
    assert other.found == said.found, f"{name}: norms of {SCALE:g} times the size get another answer"
    if said.threshold is not None and other.threshold is not None:
        factor = other.threshold / said.threshold / SCALE
        assert abs(factor - 1) < 0.02, f"{name}: the threshold of norms {SCALE:g} times larger is off by {factor:.3f}"
