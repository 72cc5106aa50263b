"""Arrays as text in a page: little-endian bytes in base64; queries and keys as 16-bit numbers with a scale for each token.

Logits reach 200 in real models, and a weight is off by up to a quarter of the error of its logit. At such logits half
precision is off by up to .02 in a weight and 8-bit numbers by up to .3, while 16-bit numbers under the largest entry of each
token stay below .002 in the bytes of half precision (`tests/unit/report/explore/test_packing.py`).
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, Int16

TYPES = {"float32": "f32", "int16": "i16", "int8": "i8", "uint16": "u16", "uint8": "u8"}
"""The names that the script of the page knows."""
Packed = dict[str, Any]


def packed(values: np.ndarray) -> Packed:
    """Return an array of one of `TYPES` as JSON can hold it."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"type": TYPES[values.dtype.name], "shape": list(values.shape), "data": data}


def unpacked(held: Packed) -> np.ndarray:
    """Return the array that `packed` was given."""
    name = {short: long for long, short in TYPES.items()}[held["type"]]
    values = np.frombuffer(base64.b64decode(held["data"]), np.dtype(name).newbyteorder("<"))
    return values.astype(name).reshape(held["shape"])


def in_16_bits(vectors: Float[np.ndarray, "*n d"]) -> tuple[Int16[np.ndarray, "*n d"], Float[np.ndarray, "*n"]]:
    """Return vectors as 16-bit numbers, and for each the factor that gives its entries back."""
    return _whole(vectors, np.int16)


def in_8_bits(vectors: Float[np.ndarray, "*n d"]) -> tuple[Int8[np.ndarray, "*n d"], Float[np.ndarray, "*n"]]:
    """Return vectors as 8-bit numbers, and for each the factor that gives its entries back."""
    return _whole(vectors, np.int8)


def _whole(vectors: np.ndarray, kind: type[np.signedinteger[Any]]) -> tuple[np.ndarray, np.ndarray]:
    top = np.iinfo(kind).max
    factors = (np.abs(vectors).max(-1) / top).astype(np.float32)
    numbers = np.rint(vectors / np.where(factors > 0, factors, 1)[..., None])
    return np.clip(numbers, -top, top).astype(kind), factors


def centred(keys: Float[np.ndarray, "heads M d"], there: np.ndarray) -> Float[np.ndarray, "heads M d"]:
    """Return keys without their mean, which shifts all logits of a row alike and so changes no attention.

    Args:
        there: bool [M], the keys that exist; the others become 0.
    """
    mean = keys[:, there].mean(1, keepdims=True) if there.any() else 0.0
    return np.where(there[:, None], keys - mean, 0.0).astype(np.float32)


def log_sums(
    q: Float[np.ndarray, "heads N d"], k: Float[np.ndarray, "kv_heads M d"], there: np.ndarray
) -> Float[np.ndarray, "heads N"]:
    """Return the logarithm of the sum of exp(q · k) over the keys that exist, by which a column of attention is divided."""
    each = len(q) // len(k)
    found = np.empty(q.shape[:2], np.float32)
    for head, queries in enumerate(q):
        logits = queries.astype(np.float64) @ k[head // each, there].T.astype(np.float64)
        top = logits.max(1)
        found[head] = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return found
