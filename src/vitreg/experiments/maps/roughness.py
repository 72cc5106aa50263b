"""How rough a map on the patch grid is: lone peaks, differences of neighbours, and whether marked patches stand out.

The paper calls maps with artifacts peaky, and those of models with registers smooth (Figs. 1, 2 and 13 to 16), without a
number. These are ours. Maps are what `maps` computes; nothing here runs a model.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view

REACH = 2  # patches around a patch: a window of 5x5
NEAR, FEW = (
    0.25,
    0.25,
)  # near a peak is a patch with a quarter of its value; at most a quarter of those around it may be
LEAST = 2.0  # times the mean of its map, at least: where all is small, nothing is a peak


def lone_peaks(maps: Float[np.ndarray, "n rows cols"]) -> Bool[np.ndarray, "n rows cols"]:
    """Mark patches of a map of shares, such as attention, that tower above what surrounds them.

    Even the corner of an object is no peak: a third of the patches around it belong to the object. A clump of a few outliers
    is made of peaks.

    >>> for i, r, c in product(range(n), range(rows), range(cols)):
    ...     around = [maps[i, y, x] for y, x in cells if abs(y - r) <= 2 and abs(x - c) <= 2 and (y, x) != (r, c)]
    ...     near = [value for value in around if value > maps[i, r, c] / 4]
    ...     out[i, r, c] = len(near) <= len(around) / 4 and maps[i, r, c] >= 2 * mean(maps[i])

    Patches without a token are NaN, and ignored.
    """
    edged = np.pad(maps, ((0, 0), (REACH, REACH), (REACH, REACH)), constant_values=np.nan)
    side = 2 * REACH + 1
    windows = sliding_window_view(edged, (side, side), axis=(1, 2)).reshape(*maps.shape, side * side)
    around = np.delete(windows, side * side // 2, axis=-1)
    near = (around > NEAR * maps[..., None]).sum(-1)  # NaN is not
    known = np.isfinite(maps)
    count = known.sum(axis=(1, 2), keepdims=True)
    mean = np.where(known, maps, 0.0).sum(axis=(1, 2), keepdims=True) / np.maximum(count, 1)
    return known & (near <= FEW * np.isfinite(around).sum(-1)) & (maps >= LEAST * mean) & (maps > 0)


def roughness(maps: Float[np.ndarray, "n rows cols"]) -> Float[np.ndarray, " n"]:
    """How much neighbours differ, over how much patches differ: Geary's C (1954) of each map.

    Near 0 for a map that changes slowly, 1 for one without any order, and NaN for a map of one value.

    >>> for i in range(n):
    ...     squares = [(maps[i][a] - maps[i][b]) ** 2 for a, b in pairs_of_4_neighbours]
    ...     out[i] = mean(squares) / (2 * variance(maps[i]))     # with n - 1
    """
    maps = np.asarray(maps, dtype=np.float64)
    down, right = np.diff(maps, axis=1).reshape(len(maps), -1), np.diff(maps, axis=2).reshape(len(maps), -1)
    squares = np.concatenate([down, right], axis=1) ** 2
    flat = maps.reshape(len(maps), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nanmean(squares, axis=1) / (2 * np.nanvar(flat, axis=1, ddof=1))


def standing_out(
    maps: Float[np.ndarray, "n rows cols"], marked: Bool[np.ndarray, "n rows cols"]
) -> Float[np.ndarray, " n"]:
    """Probability that a marked patch has a larger value than another patch of its image, ties counted half.

    NaN for an image in which none or all are marked.

    >>> for i in range(n):
    ...     ours, others = maps[i][marked[i]], maps[i][~marked[i]]
    ...     out[i] = mean((a > b) + 0.5 * (a == b) for a in ours for b in others)
    """
    found = np.full(len(maps), np.nan)
    for place, (values, mine) in enumerate(zip(maps, marked, strict=True)):
        known = np.isfinite(values)
        ours, others = values[mine & known], np.sort(values[~mine & known])
        if len(ours) and len(others):
            below = np.searchsorted(others, ours, "left") + np.searchsorted(others, ours, "right")
            found[place] = below.mean() / (2 * len(others))
    return found
