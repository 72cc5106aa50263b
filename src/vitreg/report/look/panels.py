"""The panels of a look: maps on the patch grid, the photo with outlined patches, and what stands where there is no map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from vitreg.report.look.palette import ACCENT, EMPTY, MAGMA, MUTED, PAPER, VIRIDIS, coloured
from vitreg.report.look.words import font, wrapped

Size = tuple[int, int]
"""Width and height in pixels."""
BETWEEN = 6  # pixels between the maps of registers


def picture(pixels: UInt8[np.ndarray, "H W 3"], size: Size) -> Image.Image:
    """Return a photo at its size on the page."""
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def norms(ratios: Float[np.ndarray, "rows cols"], scale: tuple[float, float], size: Size) -> Image.Image:
    """Return norms over their median on a logarithmic scale from scale[0] to scale[1]."""
    low, high = (math.log(end) for end in scale)
    with np.errstate(divide="ignore"):
        shares = (np.log(ratios) - low) / (high - low)
    return _enlarged(coloured(shares, MAGMA), size)


def attention(shares: Float[np.ndarray, "rows cols"], size: Size) -> Image.Image:
    """Return an attention map from 0 to its largest value."""
    largest = np.nanmax(shares) if np.isfinite(shares).any() else 0.0
    return _enlarged(coloured(shares / largest if largest > 0 else shares, VIRIDIS), size)


def components(colours: Float[np.ndarray, "rows cols 3"], size: Size) -> Image.Image:
    """Return principal components, red, green, blue in 0..1."""
    gone = np.isnan(colours).any(-1, keepdims=True)
    return _enlarged(
        np.where(gone, np.array(EMPTY, np.uint8), np.rint(255 * np.nan_to_num(colours)).astype(np.uint8)), size
    )


def several(maps: Sequence[np.ndarray], size: Size) -> Image.Image:
    """Return attention maps side by side in one panel, each from 0 to its own largest value; 16 at most."""
    maps = maps[:16]
    across = math.ceil(math.sqrt(len(maps)))
    down = math.ceil(len(maps) / across)
    each = max(1, (size[0] - BETWEEN * (across - 1)) // across), max(1, (size[1] - BETWEEN * (down - 1)) // down)
    panel = Image.new("RGB", size, PAPER)
    for place, found in enumerate(maps):
        corner = (place % across) * (each[0] + BETWEEN), (place // across) * (each[1] + BETWEEN)
        panel.paste(attention(found, each), corner)
    return panel


def nothing(why: str, size: Size) -> Image.Image:
    """Return an empty panel that says why."""
    panel = Image.new("RGB", size, EMPTY)
    draw, face = ImageDraw.Draw(panel), font(15)
    lines = wrapped(why, size[0] - 36, face, most=8)
    draw.multiline_text(
        (size[0] / 2, size[1] / 2), "\n".join(lines), MUTED, face, anchor="mm", align="center", spacing=6
    )
    return panel


def outline(panel: Image.Image, mask: Bool[np.ndarray, "rows cols"]) -> Image.Image:
    """Draw lines around the marked patches, in place. Returns the panel."""
    (rows, cols), (width, height), draw = mask.shape, panel.size, ImageDraw.Draw(panel)
    xs, ys = (
        np.rint(np.linspace(0, side - 1, n + 1)).astype(int).tolist() for side, n in ((width, cols), (height, rows))
    )
    edges = []
    for row, col in np.argwhere(mask).tolist():
        around = {
            (xs[col], ys[row], xs[col + 1], ys[row]): (row - 1, col),
            (xs[col], ys[row + 1], xs[col + 1], ys[row + 1]): (row + 1, col),
            (xs[col], ys[row], xs[col], ys[row + 1]): (row, col - 1),
            (xs[col + 1], ys[row], xs[col + 1], ys[row + 1]): (row, col + 1),
        }
        edges += [edge for edge, (r, c) in around.items() if not (0 <= r < rows and 0 <= c < cols and mask[r, c])]
    for colour, thick in ((0, 0, 0), 5), (ACCENT, 3):
        for edge in edges:
            draw.line(edge, colour, thick)
    return panel


def _enlarged(pixels: np.ndarray, size: Size) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).resize(size, Image.Resampling.NEAREST)
