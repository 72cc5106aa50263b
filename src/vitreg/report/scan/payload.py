"""The data block of the page: maps of the example images, quantised and small, as JSON that cannot leave its element.

Values are 16-bit and little-endian in base64: norms on a logarithmic scale shared by all images (error below 0.01 % of
the value for a span of a thousand), attention as a share of each map's own maximum, attended shares as a share of one.
Patches without a token, NaN in a map, are listed as gone and drawn empty.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from vitreg.records import Example, Heatmap
from vitreg.report.colours import palette
from vitreg.report.ranges import usable

LONGEST_SIDE = 560  # pixels of an example on the page; larger images are shrunk, maps keep their grid
ATTENDED = 12  # attended patches drawn for the token under the pointer


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of norms that all maps share; low > 0 because it is logarithmic."""

    low: float
    high: float

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Scale:
        """Cover every finite positive norm, and at least 3 times the median, so that uniform maps look uniform."""
        norms = np.concatenate([np.ravel(e.norms) for e in examples] or [np.ones(1)]).astype(np.float64)
        norms = norms[np.isfinite(norms) & (norms > 0)]
        if not norms.size:
            return cls(1.0, 10.0)
        return cls(*usable(float(norms.min()), max(float(norms.max()), 3 * float(np.median(norms))), log=True))

    def quantise(self, norms: np.ndarray) -> np.ndarray:
        """Map norms to 0..65535, uint16 of the same shape; zeros and non-finite values fall to 0."""
        safe = np.where(np.isfinite(norms) & (norms > 0), norms, self.low).astype(np.float64)
        share = np.log(np.clip(safe, self.low, self.high) / self.low) / np.log(self.high / self.low)
        return np.rint(65535 * share).astype(np.uint16)


def data_block(
    examples: Sequence[Example], thresholds: Sequence[float | None], positions: Heatmap | None = None
) -> Markup:
    """Serialise the data for the page's script, with every `<`, `>` and `&` escaped.

    Args:
        thresholds: per example, the norm beyond which a token is an outlier.
    """
    scale = Scale.of(examples)
    shown = [_example(e, scale, threshold) for e, threshold in zip(examples, thresholds, strict=True)]
    return _block({"low": scale.low, "high": scale.high}, _positions(positions), shown)


def empty_block() -> Markup:
    """The data block of a page without maps, whose script serves the charts alone."""
    return _block({}, None, [])


def _block(norms: dict[str, Any], positions: dict[str, Any] | None, examples: list[dict[str, Any]]) -> Markup:
    palettes = {name: _encode(palette(name)) for name in ("magma", "viridis")}
    data = {"norms": norms, "palettes": palettes, "positions": positions, "examples": examples}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _positions(grid: Heatmap | None) -> dict[str, Any] | None:
    if grid is None:
        return None
    return {
        "rows": grid.rows,
        "cols": grid.cols,
        "values": [[round(float(np.nan_to_num(v, posinf=0.0)), 6) for v in row] for row in grid.values],
    }


def _example(example: Example, scale: Scale, threshold: float | None) -> dict[str, Any]:
    rows, cols = example.norms.shape
    index = np.uint16 if rows * cols <= 1 << 16 else np.uint32
    order = np.argsort(-example.attends_share, axis=1, kind="stable")[:, :ATTENDED]
    shares = np.clip(np.nan_to_num(np.take_along_axis(example.attends_share, order, axis=1)), 0, 1)

    attention = [("CLS", example.cls_attention)] if example.cls_attention is not None else []
    attention += [(f"register {i + 1}", m) for i, m in enumerate(example.register_attention)]
    gone = {"norms": np.isnan(example.norms), "pca": np.isnan(example.pca).any(2)}
    return {
        "name": example.name,
        "gone": {name: _encode(cells.astype(np.uint8)) for name, cells in gone.items() if cells.any()},
        "rows": rows,
        "cols": cols,
        "aspect": example.image.shape[1] / example.image.shape[0],
        "outliers": _encode(example.outliers.astype(np.uint8)),
        "near": _encode((np.zeros((rows, cols)) if example.near is None else example.near).astype(np.uint8)),
        "threshold": threshold if threshold is not None and np.isfinite(threshold) else None,
        "norms": _encode(scale.quantise(example.norms)),
        "attention": [_attention(name, values) for name, values in attention],
        "pca": _encode(np.rint(255 * np.clip(np.nan_to_num(example.pca), 0, 1)).astype(np.uint8)),
        "attended": order.shape[1],
        "wide": index is np.uint32,
        "attends": _encode(np.take_along_axis(example.attends, order, axis=1).astype(index)),
        "shares": _encode(np.rint(65535 * shares).astype(np.uint16)),
    }


def _attention(name: str, values: np.ndarray) -> dict[str, Any]:
    gone = np.isnan(values)
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0)) or 1.0
    data = _encode(np.rint(65535 * np.clip(values / top, 0, 1)).astype(np.uint16))
    return {"name": name, "max": top, "data": data} | ({"gone": _encode(gone.astype(np.uint8))} if gone.any() else {})


def _encode(values: np.ndarray) -> str:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def picture(example: Example) -> str:
    """The image as a data URI."""
    return data_uri(*encoded(example))


def data_uri(kind: str, content: bytes) -> str:
    """A picture as a data URI; `kind` is its type, such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def encoded(example: Example) -> tuple[str, bytes]:
    """The image as a PNG or JPEG, whichever is smaller, at most LONGEST_SIDE pixels; a kept file is returned unchanged."""
    if example.file is not None:
        return ("png" if example.file.startswith(b"\x89PNG") else "jpeg"), example.file
    image = Image.fromarray(np.ascontiguousarray(example.image))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    best: tuple[str, bytes] | None = None
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 88, "subsampling": 0})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        if best is None or len(buffer.getvalue()) < len(best[1]):
            best = (kind.lower(), buffer.getvalue())
    assert best is not None
    return best
