"""Detectors of outliers in a histogram of token norms, and the gates below which the answer is "none".

The default looks for a second mode (the paper, Sec. 2.1: "clearly bimodal"). It fits a Gaussian mixture to log-norms
and accepts it only if BIC prefers it, its density has a valley, and the two groups are far apart. The bulk of a real
model is skewed, so it may take up to three components; outliers are the norms beyond the valley. Fixed cutoffs (150 in
the paper) do not transfer between models. A percentile finds its share in any model, so it is for plots only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from vitreg import plugins
from vitreg.analysis.norms import REACH, NormHistogram
from vitreg.errors import UserError
from vitreg.quantities import number, percent

Side = Literal["high", "low"]

# Gates on effect size, from the field's rules of thumb. The paper's phenomenon affects about 2 % of the tokens: fewer
# than 1 in 2000 or more than 1 in 5 is something else. No downstream harm was reported below a factor of two.
MIN_SHARE, MAX_SHARE, MIN_RATIO, MIN_ASHMAN = 0.0005, 0.20, 2.0, 2.0
LARGEST_RATIO = 2.0**REACH
NEAR = 1.25  # tokens within this factor of the threshold are shown as near it, so that a reader can judge the cut
COMPONENTS = (2, 3, 4)
SETTLED = 1e-9  # EM stops once no value changes by more than this
TAILS = (0.8, 0.9, 0.97, 0.99, 0.995, 0.998)  # where the outermost component of a start begins


@dataclass(frozen=True, slots=True)
class Detection:
    """A detector's answer for one distribution of norms.

    Args:
        found: all gates passed.
        side: "high" or "low".
        threshold: norm from which (high: >=, low: <) a token is an outlier; None if no split was considered.
        share: fraction of tokens beyond the threshold.
        ratio: median norm of the outliers over that of the rest (high), or the inverse (low); always >= 1.
        gates: the number that each gate looked at, by name.
    """

    found: bool
    side: Side
    threshold: float | None
    share: float
    ratio: float | None
    gates: dict[str, float | bool | None] = field(default_factory=dict)


Detector = Callable[[NormHistogram, Side], Detection]


def ratio_of(outliers: float, others: float, side: str) -> float:
    """The ratio of two median norms, inverted on the low side and capped at `LARGEST_RATIO` (outliers may have norm
    0)."""
    return min(outliers / others if side == "high" else others / outliers, LARGEST_RATIO)


def beyond(histogram: NormHistogram, side: Side, threshold: float, **gates: float | bool | None) -> Detection:
    """Split at a threshold and apply the gates on effect size: share of tokens and ratio of medians."""
    if not histogram.total:  # no token is left to look at
        return Detection(False, side, None, 0.0, None, dict(gates))
    threshold = histogram.edge_near(threshold)  # report the threshold that was counted with
    inside, outside = histogram.split(threshold, side)
    share = outside.total / max(histogram.total, 1)
    if not inside.total or not outside.total:
        return Detection(False, side, threshold, share, None, dict(gates))
    ratio = ratio_of(outside.median, inside.median, side)
    passed = MIN_SHARE <= share <= MAX_SHARE and ratio >= MIN_RATIO and all(g is not False for g in gates.values())
    return Detection(passed, side, threshold, share, ratio, dict(gates))


def shortfalls(detection: Detection) -> list[str]:
    """Return one clause with its number for every gate that a group fails; empty if all pass."""
    failed = []
    if detection.share < MIN_SHARE:
        failed.append(f"it holds less than {percent(MIN_SHARE)} of the patches")
    if detection.share > MAX_SHARE:
        failed.append(f"it holds more than {percent(MAX_SHARE)} of the patches")
    if detection.ratio is not None and detection.ratio < MIN_RATIO:
        limit = f"below {MIN_RATIO:g}" if detection.side == "high" else f"above {1 / MIN_RATIO:g}"
        failed.append(f"its norm is {limit} times that of the others")
    if detection.gates.get("separation") is False:
        ashman = number(float(detection.gates.get("ashman_d") or 0))
        failed.append(f"it overlaps with the others (Ashman's D is {ashman}; above {MIN_ASHMAN:g} is required)")
    if detection.gates.get("bic") is False:
        failed.append("a single skewed group fits the norms as well (BIC)")
    return failed


def mad(histogram: NormHistogram, side: Side = "high", k: float = 5.0) -> Detection:
    """Median + k * 1.4826 * MAD of the norms (field standard k = 4 to 5). Over-detects where the bulk is narrow or skewed."""
    median = histogram.median
    spread = 1.4826 * histogram.absolute_deviation(median)
    return beyond(histogram, side, median + k * spread if side == "high" else max(median - k * spread, 0.0))


def ratio(histogram: NormHistogram, side: Side = "high", factor: float = 3.0) -> Detection:
    """More than `factor` times the median (high) or less than 1/factor of it (low)."""
    return beyond(histogram, side, histogram.median * factor if side == "high" else histogram.median / factor)


def absolute(histogram: NormHistogram, side: Side = "high", cutoff: float = 150.0) -> Detection:
    """A fixed cutoff; 150 is the paper's for DINOv2 ViT-g/14 and holds for no other model."""
    return beyond(histogram, side, cutoff)


def percentile(histogram: NormHistogram, side: Side = "high", q: float = 98.0) -> Detection:
    """The top (100 - q) %. For plots only: it finds its share in any distribution, so it never reports `found`."""
    split = histogram.quantile(q / 100 if side == "high" else 1 - q / 100)
    return replace(beyond(histogram, side, split), found=False)


def mixture(histogram: NormHistogram, side: Side = "high") -> Detection:
    """Gaussian mixture of log-norms with BIC, valley and separation gates: the default detector.

    Fits 1 Gaussian and mixtures of 2 to 4 by EM. A fit has two modes if its density has a local minimum above the main
    mode. The best fit with two modes is accepted if BIC prefers it by more than 10 to the best fit with one, so that a
    skewed or heavy-tailed bulk does not pass, and if Ashman's D = sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) of the two
    groups exceeds 2; then share and ratio are gated as for every detector. The threshold is the norm at which both
    groups are equally likely.
    """
    none = Detection(False, side, None, 0.0, None, {"modes": 1.0})
    median = histogram.median
    candidates = beyond(histogram, side, median * MIN_RATIO if side == "high" else median / MIN_RATIO)
    # If fewer than a third of MIN_SHARE lie beyond twice the median norm, no outer group can pass: skip the fit.
    if candidates.share < MIN_SHARE / 3:
        return none
    values, counts = histogram.coarse_log()
    x = values if side == "high" else -values[::-1]
    w = counts if side == "high" else counts[::-1]
    unimodal, bimodal = _bic(x, w, _single(x, w)), np.inf
    best: tuple[float, float, int] | None = None  # cut, Ashman's D, components
    # The best fits first: looking for a valley takes longer than BIC, and most fits cannot change the answer.
    for bic, parameters in sorted(((_bic(x, w, p), p) for p in fits(x, w)), key=lambda fit: fit[0]):
        if best is not None and bic >= unimodal:
            break
        split = _split(parameters)
        if split is None:
            unimodal = min(unimodal, bic)
        elif best is None:
            bimodal, best = bic, (*split, parameters.shape[1])
    if best is None:
        return none
    cut, ashman, components = best
    threshold = float(np.exp(cut if side == "high" else -cut))
    gates = {"bic": bool(unimodal - bimodal > 10.0), "separation": bool(ashman > MIN_ASHMAN)}
    found = beyond(histogram, side, threshold, **gates)
    found.gates.update(delta_bic=float(unimodal - bimodal), ashman_d=float(ashman), components=float(components))
    return found


def fits(x: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
    """EM solutions for 2, 3 and 4 components from starts whose outermost component begins in the upper tail.

    A plain start spends every component on the bulk (98 % of the likelihood) and misses a small outer mode.

    Args:
        x: [n] ascending log-norms; w: [n] counts.
    Returns:
        list of [3, K] arrays: weights, means, standard deviations.
    """
    cumulative = np.cumsum(w) / w.sum()
    spread = float(_single(x, w)[2, 0])
    starts = []
    for k in COMPONENTS:
        for tail in TAILS:
            edges = np.concatenate([np.linspace(0, tail, k), [1.0]])
            middles = np.interp((edges[1:] + edges[:-1]) / 2, cumulative, x)
            # Starts of different sizes run in one array; a component of weight 0 stays at 0 and takes no part.
            start = np.tile([[0.0], [0.0], [1.0]], COMPONENTS[-1])
            start[:, :k] = np.diff(edges), middles, np.full(k, spread / k + 1e-3)
            starts.append(start)
    # Starts with two components converge early, those with more rarely do: run them apart.
    few, many = np.stack(starts[: len(TAILS)])[:, :, : COMPONENTS[0]], np.stack(starts[len(TAILS) :])
    solved = [*_em(x, w, few, tolerance=SETTLED), *_em(x, w, many)]
    return [p[:, :k] for k, p in zip([k for k in COMPONENTS for _ in TAILS], solved, strict=True)]


def _single(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    mean = np.average(x, weights=w)
    return np.array([[1.0], [mean], [np.sqrt(np.average((x - mean) ** 2, weights=w)) + 1e-6]])


def _density(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Weighted component densities [..., K, n] of parameters [..., 3, K]."""
    weight, mean, sd = (p[..., i, :, None] for i in range(3))
    return weight * np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def _em(x: np.ndarray, w: np.ndarray, p: np.ndarray, steps: int = 300, tolerance: float = 1e-5) -> np.ndarray:
    """Expectation-maximisation over a histogram, all starts at once: p is [S, 3, K]."""
    floor = (x[-1] - x[0]) / max(len(x) - 1, 1)  # no component narrower than a bin
    x, w = x[w > 0], w[w > 0]  # empty bins weigh nothing, and two in three are empty
    centre = np.average(x, weights=w)
    x = x - centre  # so that second moments lose no digits
    powers = np.stack([np.ones_like(x), x, x**2], axis=1) * w[:, None]  # [n, 3]
    total, (starts, _, k) = w.sum(), p.shape
    weight, mean, sd = p.transpose(1, 0, 2).reshape(3, -1, 1)  # each [S * K, 1]
    mean = mean - centre
    for _ in range(steps):
        # The same as `_density`, inlined: resamples spend their time here.
        density = x - mean  # [S * K, n]
        density /= sd
        density *= density
        density *= -0.5
        np.exp(density, out=density)
        density *= weight / (sd * np.sqrt(2 * np.pi))
        shares = density.reshape(starts, k, -1)
        shares /= np.maximum(shares.sum(1, keepdims=True), 1e-300)
        zeroth, first, second = (density @ powers).T[:, :, None]
        n = np.maximum(zeroth, 1e-12)
        old = weight, mean, sd
        weight, mean = zeroth / total, first / n
        sd = np.sqrt(np.maximum(second / n - mean**2, floor**2))
        if all(np.abs(new - before).max() < tolerance for new, before in zip((weight, mean, sd), old, strict=True)):
            break
    return np.stack([weight, mean + centre, sd]).reshape(3, starts, k).transpose(1, 0, 2)


def _bic(x: np.ndarray, w: np.ndarray, p: np.ndarray) -> float:
    likelihood = (w * np.log(np.maximum(_density(x, p).sum(0), 1e-300))).sum()
    return float((3 * p.shape[1] - 1) * np.log(w.sum()) - 2 * likelihood)


def _split(p: np.ndarray) -> tuple[float, float] | None:
    """Where the fitted density separates an outer group above the main mode, and Ashman's D of the two groups.

    None if the density has no valley above its highest mode. Components belong to the outer group if their mean lies
    beyond the deepest valley; the cut is where both groups are equally likely.
    """
    p = p[:, np.argsort(p[1])]
    grid = np.linspace(p[1].min() - 3 * p[2].max(), p[1].max() + 3 * p[2].max(), 1500)
    density = _density(grid, p).sum(0)
    main = int(density.argmax())
    interior = np.arange(main + 1, len(grid) - 1)
    valleys = interior[(density[interior] < density[interior - 1]) & (density[interior] <= density[interior + 1])]
    if not len(valleys):
        return None
    peaks = np.array([density[v:].max() for v in valleys])
    valley = int(valleys[(density[valleys] / peaks).argmin()])
    outer = p[1] > grid[valley]
    if not outer.any() or outer.all():
        return None
    moments = []
    for group in (p[:, ~outer], p[:, outer]):
        share = group[0] / group[0].sum()
        mean = (share * group[1]).sum()
        moments.append((mean, (share * (group[2] ** 2 + (group[1] - mean) ** 2)).sum()))
    (m1, v1), (m2, v2) = moments
    ashman = np.sqrt(2) * (m2 - m1) / np.sqrt(v1 + v2)
    inner_d, outer_d = _density(grid, p[:, ~outer]).sum(0), _density(grid, p[:, outer]).sum(0)
    between = (grid > grid[main]) & (grid < p[1, outer].max())
    crossing = np.flatnonzero(between & (outer_d >= inner_d))
    return float(grid[crossing[0]] if len(crossing) else grid[valley]), float(ashman)


DETECTORS: dict[str, Callable[..., Detection]] = {"mixture": mixture, "mad": mad, "ratio": ratio, "absolute": absolute}
"""The detectors that give verdicts, by name. A third parameter of the function is what may follow the name."""
NAMES = (*DETECTORS, "percentile")
"""Names that no plug-in may take."""


def detector(name: str) -> Detector:
    """Turn "mixture", "mad:5", "ratio:3", "absolute:150" or the name of a plug-in into a detector for verdicts.

    A plug-in is a function (histogram, side) → Detection, or (histogram, side, value) where it takes a parameter.

    Raises:
        UserError: for an unknown name, a parameter that is no number, and for "percentile".
    """
    kind, _, argument = name.partition(":")
    plugins.refuse_taken("detector", NAMES)
    if kind == "percentile":
        raise UserError(
            f"a percentile finds its share in any model, so it cannot give a verdict; use one of {', '.join(DETECTORS)}."
        )
    function = DETECTORS[kind] if kind in DETECTORS else _of_others(kind)
    if not argument:
        return function
    if _parameter(function) is None:
        raise UserError(f"the {kind} detector takes no parameter.")
    try:
        value = float(argument)
    except ValueError:
        raise UserError(f"'{argument}' in --detector {name} is no number, for example {kind}:3.") from None
    if not 0 < value < float("inf"):
        raise UserError(f"the parameter of --detector {name} must be positive.")
    return lambda histogram, side: function(histogram, side, value)


def known_detectors() -> str:
    """Return what --detector takes, as the help shows it: ours with their parameters, then plug-ins."""
    asked = {name: _parameter(function) for name, function in DETECTORS.items()}
    return ", ".join(plugins.names("detector", (f"{name}[:{word}]" if word else name for name, word in asked.items())))


def _parameter(function: Callable[..., Detection]) -> str | None:
    """Return the name of a detector's third parameter, None where it has two."""
    return next(iter([*inspect.signature(function).parameters][2:]), None)


def _of_others(kind: str) -> Callable[..., Detection]:
    """Return a plug-in whose failures are one sentence. Raises UserError for a name that does not exist."""
    function = plugins.find("detector", kind, NAMES)
    if not callable(function):
        raise UserError(f"the detector '{kind}' is {function!r}, not a function (histogram, side) → Detection.")

    @functools.wraps(function)
    def called(*given: Any) -> Detection:
        with plugins.blamed("detector", kind):
            found = function(*given)
        if not isinstance(found, Detection):
            raise UserError(f"the detector '{kind}' gives {type(found).__name__}, not a Detection.")
        return found

    return called
