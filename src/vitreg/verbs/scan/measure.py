"""All statistics of a scan from one forward pass: norms of every layer, attention of a few queries, redundancy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.analysis import maps, sinks
from vitreg.analysis.locality import neighbour_cosine
from vitreg.analysis.tally import BatchStatistics
from vitreg.backbones import Backbone, Capture, Trace
from vitreg.machine.runtime import keep_freed_memory
from vitreg.tokens import TokenLayout, common_layout

SAMPLED_QUERIES = 16
T = TypeVar("T")


def sampled_queries(layout: TokenLayout) -> list[int]:
    """Return the query patches from which received attention is estimated: an even lattice on the grid.

    All P rows of every layer would cost as much as the attention itself; sixteen rows cost about 5 % of it. The sampling
    noise of their mean is small beside what outliers receive (over 8 times the mean). Patches without a token are left
    out; if the whole lattice is gone, patches spread over the remaining ones replace it.
    """
    steps = [np.unique(np.linspace(0, n - 1, 2 * 4 + 1)[1::2].round().astype(int)) for n in layout.grid]
    lattice = [index for r in steps[0] for c in steps[1] if (index := layout.patch(int(r), int(c))) >= 0]
    there = layout.patch_index[layout.present].tolist()
    return lattice or there[:: -(-len(there) // SAMPLED_QUERIES)]


class Measure:
    """Measures batches of one backbone at one image size.

    Args:
        attention: whether to read attention; off for models whose attention cannot be read.

    Attributes:
        layout: layout that holds the tokens of all blocks and every patch.
        present: bool [L + 1, N], which of these tokens enter block 0, and which exist after each block.
        heads: most attention heads of a block; 0 if attention is not read.
    """

    def __init__(self, backbone: Backbone, image_size: tuple[int, int], *, attention: bool = True) -> None:
        keep_freed_memory()
        layouts = backbone.layouts(image_size)
        self.backbone, self.layout, self.attention = backbone, common_layout(layouts), attention
        self._places = _of_each(layouts, lambda layout: layout.places(self.layout))
        self.present = torch.stack(self._places).numpy() >= 0
        self._moved = [layout != self.layout for layout in layouts]
        self._patch_queries = _of_each(layouts[:-1], sampled_queries)
        self._queries = [
            [*layout.cls[:1], *queries] for layout, queries in zip(layouts, self._patch_queries, strict=False)
        ]
        self._with_cls = all(layout.cls for layout in layouts[:-1])
        parts = backbone.anatomy.attention
        self.heads = max([backbone.anatomy.heads or 0, *(part.heads for part in parts)]) if attention else 0
        self.capture = Capture(
            norms="all",
            patch_embeddings=True,
            rows=dict(enumerate(self._queries)) if attention else None,
            read=sinks.concentrated,
        )

    @property
    def queries(self) -> list[int]:
        """Indices (in block 0) of the tokens whose attention is read."""
        return self._queries[0]

    def __call__(self, indices: Tensor, names: tuple[str, ...], pixels: Float[Tensor, "B 3 H W"]) -> BatchStatistics:
        """Run the model once, and reduce its tokens to the statistics of the batch."""
        with torch.inference_mode():
            return self.statistics(indices, names, self.backbone.trace(pixels, self.capture))

    def statistics(self, indices: Tensor, names: tuple[str, ...], trace: Trace) -> BatchStatistics:
        """Reduce a forward that captured at least `capture` to the statistics of the batch."""
        with torch.inference_mode():
            layers = range(self.backbone.depth)
            norms = torch.stack([self._in_place(trace.norms(layer), layer + 1) for layer in layers])
            entering = None if trace.entering_norms is None else self._in_place(trace.entering_norms, 0)
            cosine = neighbour_cosine(trace.patch_embeddings.float(), self.layout.grid)
            cls, received, counts = [], [], []
            for layer in layers if self.attention else ():
                rows, layout = trace.attention(layer, self._queries[layer]), trace.layout_before(layer)
                if self._with_cls:
                    cls.append(_share(layout.take(rows[:, :, 0].mean(1), -1, fill=0.0)))
                queries = self._patch_queries[layer]
                to_each = layout.take(maps.received(rows[:, :, -len(queries) :], queries), -1, fill=0.0)
                counts.append(self._sinks(trace, layer, rows))
                received.append(_share(to_each) * (layout.num_patches if layout.whole else int(layout.present.sum())))
        return BatchStatistics(
            indices=indices.numpy(),
            names=names,
            norms=norms.float().cpu().numpy(),
            entering=None if entering is None else entering.cpu().numpy(),
            cosine=cosine.cpu().numpy(),
            cls_attention=torch.stack(cls).cpu().numpy() if cls else None,
            received=torch.stack(received).cpu().numpy() if received else None,
            sinks=_summed(*zip(*counts, strict=True)) if counts else None,
        )

    def _sinks(self, trace: Trace, layer: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sinks of one block: numbers of heads, counts by place and by patch."""
        read, layout = trace.read_rows(layer), trace.layout_before(layer)
        found, (images, heads) = sinks.find_sinks(read), rows.shape[:2]
        by_place, by_patch = sinks.keys_by_place(found, images, layout, read.value_norms.shape[1])
        return sinks.numbers_of_heads(found, images, heads, self.heads), by_place, by_patch

    def _in_place(self, norms: Float[Tensor, "B n"], stage: int) -> Float[Tensor, "B N"]:
        """Norms of the tokens that enter block 0 (stage 0) or leave block stage - 1, placed in the common layout."""
        if not self._moved[stage]:
            return norms
        places = self._places[stage]
        found = norms[:, places.clamp(min=0).to(norms.device)]
        return found * (places >= 0).to(found)


def _of_each(layouts: Sequence[TokenLayout], found: Callable[[TokenLayout], T]) -> list[T]:
    """Return what is found for every layout, once for equal ones in a row."""
    return [value for layout, run in itertools.groupby(layouts) for value in [found(layout)] for _ in run]


def _share(row: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    return row / row.sum(1, keepdim=True).clamp(min=1e-12)


def _summed(heads: Sequence[Tensor], places: Sequence[Tensor], patches: Sequence[Tensor]) -> sinks.SinkCounts:
    """Put the blocks together; sums over images are of float64, so that batches of any size give the same."""
    by_image, by_place, by_patch = (torch.stack(list(each)).cpu() for each in (heads, places, patches))
    return sinks.SinkCounts(by_image.double().sum(1).numpy(), by_place.double().numpy(), by_patch.numpy())
