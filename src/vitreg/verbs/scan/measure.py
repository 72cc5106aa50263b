"""One forward pass, everything the scan wants to know of it: norms of every layer, attention of a few queries, redundancy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.analysis import maps
from vitreg.analysis.locality import neighbour_cosine
from vitreg.analysis.tally import BatchStatistics
from vitreg.backbones import Backbone, Capture
from vitreg.machine.runtime import keep_freed_memory
from vitreg.tokens import TokenLayout

SAMPLED_QUERIES = 16


def sampled_queries(layout: TokenLayout) -> list[int]:
    """Patches whose attention stands for all of them when asking what each token receives: an even lattice on the grid.

    All P rows of every layer would cost as much as the attention itself. Sixteen rows cost about 5 % of it, and what a
    patch receives from them differs from the full mean by sampling noise that outliers (over 8 times the mean) dwarf.
    """
    rows, cols = layout.grid
    steps = [np.unique(np.linspace(0, n - 1, 2 * 4 + 1)[1::2].round().astype(int)) for n in (rows, cols)]
    return [layout.patches.start + int(r) * cols + int(c) for r in steps[0] for c in steps[1]]


class Measure:
    """Measures batches of one backbone at one image size.

    Args:
        attention: whether to read attention; off for models whose attention cannot be read.
    """

    def __init__(self, backbone: Backbone, image_size: tuple[int, int], *, attention: bool = True) -> None:
        keep_freed_memory()
        self.backbone, self.layout, self.attention = backbone, backbone.one_layout(image_size), attention
        self.patch_queries = sampled_queries(self.layout)
        self.queries = [*self.layout.cls[:1], *self.patch_queries]
        self.capture = Capture(
            norms="all", patch_embeddings=True, rows=("all", tuple(self.queries)) if attention else None
        )

    def __call__(self, indices: Tensor, names: tuple[str, ...], pixels: Float[Tensor, "B 3 H W"]) -> BatchStatistics:
        """Run the model once and reduce."""
        with torch.inference_mode():
            trace = self.backbone.trace(pixels, self.capture)
            layers = range(self.backbone.depth)
            norms = torch.stack([trace.norms(layer) for layer in layers])
            cosine = neighbour_cosine(trace.patch_embeddings.float(), self.layout.grid)
            cls, received = [], []
            for layer in layers if self.attention else ():
                rows = trace.attention(layer, self.queries)  # [B, heads, Q, N]
                if self.layout.cls:
                    cls.append(_share(rows[:, :, 0].mean(1)[:, self.layout.patches]))
                to_each = maps.received(rows[:, :, -len(self.patch_queries) :], self.patch_queries)[
                    :, self.layout.patches
                ]
                received.append(_share(to_each) * self.layout.num_patches)
        return BatchStatistics(
            indices=indices.numpy(),
            names=names,
            norms=norms.float().cpu().numpy(),
            entering=None if trace.entering_norms is None else trace.entering_norms.cpu().numpy(),
            cosine=cosine.cpu().numpy(),
            cls_attention=torch.stack(cls).cpu().numpy() if cls else None,
            received=torch.stack(received).cpu().numpy() if received else None,
        )


def _share(row: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    return row / row.sum(1, keepdim=True).clamp(min=1e-12)
