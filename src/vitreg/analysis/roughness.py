"""How rough a map on the patch grid is: lone peaks, differences of neighbours, and whether marked patches stand out.

The paper calls maps with artifacts peaky, and those of models with registers smooth (Figs. 1, 2 and 13 to 16), without a
number. These are ours. Maps are what `maps` computes; nothing here runs a model.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view

REACH = 2  # patches around a patch: a window of 5x5, in which a clump of a few outliers is still a minority
FACTOR = 4.0  # a peak has at least this many times the median of its window
LEAST = 2.0  # and this many times the mean of its map: where all is small, nothing is a peak


def lone_peaks(maps: Float[np.ndarray, "n rows cols"]) -> Bool[np.ndarray, "n rows cols"]:
    """Mark patches of a map of shares, such as attention, that tower above all that surrounds them.

    An object is no peak: most of the window around its patches lies on it, too.

    >>> for i, r, c in product(range(n), range(rows), range(cols)):
    ...     near = [maps[i, y, x] for y, x in cells if abs(y - r) <= 2 and abs(x - c) <= 2 and (y, x) != (r, c)]
    ...     out[i, r, c] = maps[i, r, c] >= 4 * median(near) and maps[i, r, c] >= 2 * mean(maps[i])

    Patches without a token are NaN, and ignored.
    """
    around = np.pad(maps, ((0, 0), (REACH, REACH), (REACH, REACH)), constant_values=np.nan)
    side = 2 * REACH + 1
    windows = sliding_window_view(around, (side, side), axis=(1, 2)).reshape(*maps.shape, side * side)
    others = np.delete(windows, side * side // 2, axis=-1)
    with np.errstate(invalid="ignore"):
        usual = np.nanmedian(others, axis=-1)
        mean = np.nanmean(maps, axis=(1, 2), keepdims=True)
        return (maps >= FACTOR * usual) & (maps >= LEAST * mean)


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
