"""The document of one photo by one model, from the forward that a look at it makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.analysis.locality import neighbour_cosine
from vitreg.backbones import QKV, Backbone, Capture, Trace
from vitreg.report.explore.document import BlockAttention, Compared, Document
from vitreg.tokens import TokenLayout, common_layout
from vitreg.verbs.look.one import Seen

EVERYTHING = Capture(qkv="all", projected="all")
"""What a forward keeps for a document, beside what a look needs."""
MOST_ROWS = 32 * 2**20  # bytes of the attention of a block, where its queries and keys do not tell it
SAME = 1e-3  # of the largest entry: queries that differ by less are those that the projection wrote


def document_of(backbone: Backbone, seen: Seen, blocks: Sequence[int]) -> Document:
    """Gather what the page shows of one photo by one model.

    Args:
        seen: what a look found, from a forward that kept `EVERYTHING`.
        blocks: those whose attention the page can draw.
    """
    trace, depth = seen.scan.trace, backbone.depth
    before, after = ([of(layer) for layer in range(depth)] for of in (trace.layout_before, trace.layout_after))
    common = _ordered(common_layout([before[0], *after]))
    layers = range(depth)
    norms = np.stack([_placed(trace.norms(layer)[0].float(), after[layer], common) for layer in layers])
    received, values = (np.full((depth, common.length), np.nan, np.float32) for _ in range(2))
    missing, attention = dict(seen.record.missing), {}
    if seen.scan.unread:
        missing["attention"] = seen.scan.unread
    with torch.inference_mode():
        for layer in layers if not seen.scan.unread else ():
            found, why = _attention(trace, layer, before[layer], common, whole=layer in blocks)
            received[layer] = found.received.mean(0)
            values[layer] = _over_median(found.values, common).mean(0)
            if layer in blocks and not why:
                attention[layer] = found
            elif why:
                missing["attention"] = why
    neighbours = neighbour_cosine(trace.patch_embeddings.float(), common.grid)[0].cpu().numpy()
    final = trace.final
    features = final.layout.take(final.values[0].float().cpu()).numpy()
    return Document(
        record=seen.record, photo=seen.row.photo, grid=common.grid, norms=norms,
        tokens=(len(common.cls), len(common.other), len(common.registers)),
        thresholds=[
            None if each.threshold is None or each.side is None else (each.threshold, each.side)
            for each in seen.scan.layers
        ],
        received=received, values=values, neighbours=neighbours, features=features, attention=attention, missing=missing,
    )  # fmt: skip


def _attention(
    trace: Trace, layer: int, layout: TokenLayout, common: TokenLayout, *, whole: bool
) -> tuple[BlockAttention, str]:
    """Return the attention of one block, and why it cannot be drawn; empty if it can."""
    qkv = trace.qkv(layer)
    rows = trace.attention(layer, range(layout.length))[0].float().cpu()  # [heads, N, N]
    heads = len(rows)
    norms = torch.linalg.vector_norm(qkv.v[0, :, : layout.length].float(), dim=-1).cpu()
    told: Compared | np.ndarray = _compared(qkv, layout, common)
    why = ""
    if whole and not _tells(qkv, rows):
        told = np.nan_to_num(_placed(_placed(rows, layout, common), layout, common, axis=1))
        if 2 * told.size > MOST_ROWS:
            why = (
                f"attention of block {layer} has more parts than queries and keys, and at {layout.length} tokens is too much "
                "for a page"
            )
    there = (layout.places(common) >= 0).numpy()
    found = BlockAttention(
        there=there, told=told, before=_projected(trace, layer, qkv, layout, common) if whole else None,
        received=_placed(rows.mean(1), layout, common),
        values=_placed(norms.repeat_interleave(heads // len(norms), 0), layout, common),
    )  # fmt: skip
    return found, why


def _tells(qkv: QKV, rows: Float[Tensor, "heads N N"]) -> bool:
    """Whether a block's attention is the softmax of its queries and keys, and nothing else."""
    if qkv.mask is not None or qkv.causal:
        return False
    some = range(0, len(rows[0]), max(1, len(rows[0]) // 16))
    own = qkv.rows(some)[0, ..., : rows.shape[-1]].cpu()
    return bool((own - rows[:, list(some)]).abs().max() < SAME)


def _projected(trace: Trace, layer: int, used: QKV, layout: TokenLayout, common: TokenLayout) -> Compared | None:
    """Return queries and keys as the projection wrote them, if something changed them before they were compared."""
    try:
        written = trace.projected_qkv(layer)
    except ValueError:  # the projections of this library are not known
        return None
    if written.q.shape != used.q.shape or torch.allclose(
        written.q.float(), used.q.float(), rtol=0, atol=SAME * float(used.q.abs().max())
    ):
        return None
    return _compared(written, layout, common)


def _compared(qkv: QKV, layout: TokenLayout, common: TokenLayout) -> Compared:
    own, extra = qkv.k[0, :, : layout.length], qkv.k[0, :, layout.length :]
    k = np.nan_to_num(_placed(own.float(), layout, common, axis=1))
    return Compared(
        q=np.nan_to_num(_placed(qkv.q[0].float() * qkv.scale, layout, common, axis=1)),
        k=np.concatenate([k, extra.float().cpu().numpy()], 1),
    )


def _ordered(layout: TokenLayout) -> TokenLayout:
    """Return the layout with the same tokens in the order of a document."""
    return TokenLayout.prefixed(
        layout.grid, cls_tokens=len(layout.cls), registers=len(layout.registers), other=len(layout.other)
    )


def _placed(values: Tensor | np.ndarray, layout: TokenLayout, common: TokenLayout, axis: int = -1) -> np.ndarray:
    """Bring an axis over the tokens of a block into the order of the document; NaN where a token is not there."""
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    places = layout.places(common).numpy()
    found = np.take(array, places.clip(min=0), axis=axis).astype(np.float32)
    np.moveaxis(found, axis, 0)[places < 0] = np.nan
    return found


def _over_median(norms: Float[np.ndarray, "heads N"], common: TokenLayout) -> Float[np.ndarray, "heads N"]:
    """Norms of values over the median of the patches, head by head."""
    medians = np.nanmedian(common.take(norms, -1), axis=-1, keepdims=True)
    return norms / np.maximum(medians, np.finfo(np.float32).tiny)
