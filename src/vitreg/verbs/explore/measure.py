"""What a page shows of one photo by one model, from the forward that a look at it makes."""

from __future__ import annotations

import numpy as np

from vitreg.analysis.locality import neighbour_cosine
from vitreg.backbones import Backbone, Capture
from vitreg.report.explore.document import Document
from vitreg.tokens import TokenLayout, common_layout
from vitreg.verbs.explore.attended import Attended, placed
from vitreg.verbs.look.one import Seen

EVERYTHING = Capture(qkv="all", projected="all")
"""What a forward keeps for a page, beside what a look needs."""


def document_of(backbone: Backbone, seen: Seen) -> Document:
    """Gather what the page shows first of one photo by one model.

    Args:
        seen: what a look found, from a forward that kept `EVERYTHING`.
    """
    trace, common = seen.scan.trace, _tokens(backbone, seen)
    layers = range(backbone.depth)
    norms = np.stack([placed(trace.norms(layer)[0].float(), trace.layout_after(layer), common) for layer in layers])
    neighbours = neighbour_cosine(trace.patch_embeddings.float(), common.grid)[0].cpu().numpy()
    final = trace.final
    features = final.layout.take(final.values[0].float().cpu()).numpy()
    missing = dict(seen.record.missing)
    if seen.scan.unread:
        missing["attention"] = seen.scan.unread
    return Document(
        record=seen.record, photo=seen.photo, grid=common.grid, norms=norms,
        tokens=(len(common.cls), len(common.other), len(common.registers)),
        thresholds=[
            None if each.threshold is None or each.side is None else (each.threshold, each.side)
            for each in seen.scan.layers
        ],
        neighbours=neighbours, features=features, missing=missing,
    )  # fmt: skip


def attended(backbone: Backbone, seen: Seen, blocks: list[int]) -> Attended | None:
    """Return the attention of the same forward; None where it cannot be read.

    Args:
        blocks: those whose attention the page can draw.
    """
    return None if seen.scan.unread else Attended(seen.scan.trace, _tokens(backbone, seen), blocks)


def _tokens(backbone: Backbone, seen: Seen) -> TokenLayout:
    """Return the tokens of all blocks in the order of a document."""
    trace, layers = seen.scan.trace, range(backbone.depth)
    common = common_layout([trace.layout_before(0), *map(trace.layout_after, layers)])
    return TokenLayout.prefixed(
        common.grid, cls_tokens=len(common.cls), registers=len(common.registers), other=len(common.other)
    )
