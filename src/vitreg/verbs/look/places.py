"""Where on a photo marked patches lie, in words."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

MOST = 0.7  # share of the patches that must lie in a part of the photo for the words to name it
ROWS, COLS = ("upper", "middle", "lower"), ("left", "centre", "right")


def place_of(mask: Bool[np.ndarray, "rows cols"]) -> str:
    """Return where most marked patches lie: a corner, a side, the edge, the centre, or spread; empty without any.

    Parts are thirds of each side; the smallest part that holds `MOST` of the patches is named.
    """
    found = np.argwhere(mask)
    if not len(found):
        return ""
    thirds = [np.minimum(3 * found[:, axis] // mask.shape[axis], 2) for axis in (0, 1)]
    rows, cols = (np.bincount(third, minlength=3) / len(found) for third in thirds)
    row, col = int(rows.argmax()), int(cols.argmax())
    inside = float(((thirds[0] == row) & (thirds[1] == col)).mean())
    if inside >= MOST:
        if (row, col) == (1, 1):
            return "in the centre"
        if row == 1 or col == 1:
            return (
                f"at the {'left' if col == 0 else 'right'}" if row == 1 else f"at the {'top' if row == 0 else 'bottom'}"
            )
        return f"in the {ROWS[row]} {COLS[col]} corner"
    edge = ((found == 0) | (found == np.array(mask.shape) - 1)).any(1)
    if edge.mean() >= MOST and len(found) > 2:
        return "along the edge of the photo"
    if rows[row] >= MOST:
        return f"in the {ROWS[row]} third"
    if cols[col] >= MOST:
        return f"in the {'middle' if col == 1 else COLS[col]} third"
    return "spread over the photo"
