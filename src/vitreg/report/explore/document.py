"""`Document`: all that the page shows of one photo by one model, and its parts as they are written.

Tokens stand in one order in all arrays: class tokens, others, registers, patches row by row. NaN marks a token that does not
exist at a block. Documents know nothing of one another: whoever measures one more photo makes one more document.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from vitreg.records.look import ModelLook
from vitreg.report.explore.packing import Packed, centred, in_8_bits, in_16_bits, log_sums, packed
from vitreg.report.scan.payload import data_uri

LONGEST_SIDE = 560  # pixels of the photo on the page
Part = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Queries and keys of a block, whose softmax over the keys is its attention.

    Args:
        q: [heads, N, d], already scaled.
        k: [kv_heads, M, d]; M - N keys that belong to no token stand last.
    """

    q: Float[np.ndarray, "heads N d"]
    k: Float[np.ndarray, "kv_heads M d"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockAttention:
    """How the tokens of one block attend to one another.

    Args:
        there: which tokens enter the block.
        told: queries and keys, or the attention itself [heads, N, N] where something else has a part in it, such as a
            bias of positions.
        before: queries and keys before rotary embedding and norms; None where the model has neither.
        received: mean attention of all tokens to each.
        values: norms of the values.
    """

    there: Bool[np.ndarray, "N"]
    told: Compared | Float[np.ndarray, "heads N N"]
    before: Compared | None
    received: Float[np.ndarray, "heads N"]
    values: Float[np.ndarray, "heads N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One photo by one model.

    Args:
        record: what a look says of it.
        photo: the area that the patches cover.
        tokens: how many class tokens, others, registers; the patches are `grid`.
        norms: of every token after each block, before the final norm.
        thresholds: norm that separates the second group, and its side ("high", "low"), by block; None without a group.
        neighbours: cosine of a patch to its neighbours, right after the patch projection.
        features: of the patches, after the last block and the final norm.
        missing: what there is not, and why.
    """

    record: ModelLook
    photo: UInt8[np.ndarray, "H W 3"]
    tokens: tuple[int, int, int]
    grid: tuple[int, int]
    norms: Float[np.ndarray, "L N"]
    thresholds: list[tuple[float, str] | None]
    neighbours: Float[np.ndarray, "P"]
    features: Float[np.ndarray, "P D"]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What was read of the attention of all blocks.

    Args:
        received: mean attention to every token, over queries and heads; NaN where a token does not enter a block.
        values: norm of a token's values over the median of the patches, mean of the heads; NaN likewise.
        blocks: those whose attention the page can draw.
        before: those of them whose queries and keys are also kept before rotary embedding and norms.
        missing: why those of the others that were to be drawn cannot be.
    """

    received: Float[np.ndarray, "L N"]
    values: Float[np.ndarray, "L N"]
    blocks: list[int]
    before: list[int]
    missing: list[str]


def first_parts(document: Document, name: str) -> Iterator[tuple[str, Part]]:
    """Yield the parts that a page shows first: all but what is read of attention.

    Args:
        name: of the document on the page, such as p0m1.
    """
    yield name, _head(document)
    yield f"{name}-features", _features(document.features)


def read_part(name: str, read: Read) -> tuple[str, Part]:
    """Return the part that the page loads next: what tokens receive, and what it can draw."""
    return f"{name}-read", {
        "received": packed(read.received.astype(np.float32)),
        "values": packed(read.values.astype(np.float32)),
        "blocks": read.blocks,
        "before": read.before,
        "missing": read.missing[-1] if read.missing else "",
    }


def block_parts(name: str, block: int, attention: BlockAttention) -> Iterator[tuple[str, Part]]:
    """Yield the parts of the attention of one block."""
    yield f"{name}-b{block}", _attention(attention)
    if attention.before is not None:
        yield f"{name}-b{block}-before", _compared(attention.before, attention.there)


def _head(document: Document) -> Part:
    record = document.record
    cls, other, registers = document.tokens
    of_the_record = ("name", "sentence", "found", "side", "share", "ratio", "peak", "place")
    return {
        **{name: getattr(record, name) for name in of_the_record},
        "begins": record.first,
        "single": record.single,
        "spec": record.model.spec,
        "grid": document.grid,
        "cls": cls,
        "other": other,
        "registers": registers,
        "blocks": [
            {"threshold": None, "side": None} if found is None else {"threshold": _finite(found[0]), "side": found[1]}
            for found in document.thresholds
        ],
        "aspect": document.photo.shape[1] / document.photo.shape[0],
        "photo": picture(document.photo),
        "norms": packed(document.norms.astype(np.float32)),
        "neighbours": packed(document.neighbours.astype(np.float32)),
        "missing": document.missing,
    }


def _features(features: Float[np.ndarray, "P D"]) -> Part:
    """Directions of the patches; a patch that is gone has the factor 0."""
    known = np.nan_to_num(features.astype(np.float32))
    lengths = np.linalg.norm(known, axis=1, keepdims=True)
    numbers, factors = in_8_bits(known / np.where(lengths > 0, lengths, 1))
    return {"vectors": packed(numbers), "factors": packed(factors)}


def _attention(attention: BlockAttention) -> Part:
    told, there = attention.told, attention.there
    found = _compared(told, there) if isinstance(told, Compared) else _rows(told, there)
    return found | {
        "received": packed(attention.received.astype(np.float32)),
        "values": packed(attention.values.astype(np.float32)),
    }


def _compared(told: Compared, there: Bool[np.ndarray, "N"]) -> Part:
    extra = told.k.shape[1] - told.q.shape[1]
    keys = np.concatenate([there, np.ones(extra, bool)])
    q, of_q = in_16_bits(np.where(there[:, None], told.q, 0.0))
    k, of_k = in_16_bits(centred(told.k, keys))
    # The sums are those of what the page reads, so that a column is made of the numbers that its rows are.
    sums = log_sums(q * of_q[..., None], k * of_k[..., None], keys)
    return {
        "kind": "compared", "there": packed(keys.astype(np.uint8)), "q": packed(q), "k": packed(k),
        "q_factors": packed(of_q), "k_factors": packed(of_k), "sums": packed(sums),
    }  # fmt: skip


def _rows(rows: Float[np.ndarray, "heads N N"], there: Bool[np.ndarray, "N"]) -> Part:
    shares = np.rint(65535 * np.clip(np.nan_to_num(rows), 0, 1)).astype(np.uint16)
    return {"kind": "rows", "there": packed(there.astype(np.uint8)), "rows": packed(shares)}


def picture(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return a photo as a data URI, at most `LONGEST_SIDE` pixels; small ones stay as they are, in PNG."""
    image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small = max(image.size) <= LONGEST_SIDE // 4
    image.save(buffer, "png") if small else image.save(buffer, "jpeg", quality=88, subsampling=0)
    return data_uri("png" if small else "jpeg", buffer.getvalue())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = [
    "BlockAttention",
    "Compared",
    "Document",
    "Packed",
    "Part",
    "Read",
    "block_parts",
    "first_parts",
    "picture",
    "read_part",
]
