"""A portrait of one image: norms after one block, attention in another, principal components after the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.analysis import maps
from vitreg.backbones import Backbone, Capture, Trace
from vitreg.records import Example, ScanResult, reading_block

ATTENDED = 12  # most attended tokens shown per query
LARGEST_GRID = 40 * 40  # patches; above this the attention of every token would make the page heavy


class Images(Protocol):
    """Images that can be read again."""

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        """The area the patches cover, uint8 [h, w, 3], and the model's input [1, 3, H, W]."""
        ...


def portrait_from_record(
    backbone: Backbone, name: str, images: Images, index: int, scan: ScanResult, layer: int
) -> Example:
    """Draw the maps of one image with the threshold that a scan recorded for the layer.

    Args:
        images: the images; `index` picks one.
        scan: a scan of this model at the size of the image.
        layer: block of the norms.
    """
    record = scan.layers[layer]
    reading = reading_block(scan.layers)

    def flags(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if record.threshold is None:
            return np.zeros(norms.shape, bool), np.zeros(norms.shape, bool)
        beyond = norms < record.threshold if record.side == "low" else norms >= record.threshold
        return beyond, np.zeros(norms.shape, bool)

    blocks = (layer, backbone.depth - 1 if reading is None else reading)
    return portrait(backbone, name, *images.again(index), blocks, flags, attention=not scan.attention_unread)


def portrait(
    backbone: Backbone,
    name: str,
    shown: np.ndarray,
    pixels: Tensor,
    blocks: tuple[int, int],
    flags: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    attention: bool,
) -> Example:
    """Run one image and draw its maps: norms after one block, attention in another, PCA after the last.

    Patches without a token at a block are NaN in its map, and never outliers.

    Args:
        shown: the area the patches cover, uint8 [h, w, 3].
        pixels: [1, 3, H, W].
        blocks: (block of the norms, block of the attention).
        flags: norms of the patches present -> (outliers, near the threshold), two bool arrays of the same length.
    """
    last, (measured, reading) = backbone.depth - 1, blocks
    layout = backbone.layouts((pixels.shape[2], pixels.shape[3]))[reading]  # of the tokens that attend to one another
    everyone = list(range(layout.length)) if layout.num_patches <= LARGEST_GRID else [*layout.cls, *layout.registers]
    capture = Capture(norms=[measured], hidden=[last], rows=([reading], everyone) if attention else None)
    with torch.inference_mode():
        trace = backbone.trace(pixels, capture)
    return portrait_of(trace, last, name, shown, blocks, flags, everyone if attention else None)


def portrait_of(
    trace: Trace,
    last: int,
    name: str,
    shown: np.ndarray,
    blocks: tuple[int, int],
    flags: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    queries: Sequence[int] | None,
) -> Example:
    """Draw the maps of a forward of one image; see `portrait`.

    Args:
        trace: holds the norms after the first of the blocks, hidden states after the last, and attention in the second.
        last: the last block.
        queries: tokens whose attention was captured, class tokens and registers at least; None without attention.
    """
    measured, reading = blocks
    norms, outliers, near = flagged(trace, measured, flags)
    layout = trace.layout_before(reading)
    rows, cols = layout.grid
    cls, registers, targets, shares = None, np.zeros((0, rows, cols), np.float32), None, None
    with torch.inference_mode():
        shown_last = trace.layout_after(last)
        tokens = shown_last.take(trace.hidden(last)).float()
        colours = maps.pca_rgb(tokens, layout.grid, present=shown_last.present)[0].cpu().numpy()
        if queries is not None:
            mean = trace.attention(reading, queries)[0].float().mean(0).cpu()  # [Q, N]
            at = {token: layout.take(mean[row], -1) for row, token in enumerate(queries)}
            if layout.cls:
                cls = at[layout.cls[0]].reshape(rows, cols).numpy()
            if layout.registers:
                registers = torch.stack([at[r] for r in layout.registers]).reshape(-1, rows, cols).numpy()
            if len(queries) == layout.length:
                among = layout.take(layout.take(mean, 0, fill=0.0), 1, fill=0.0)  # [P, P]
                best = among.topk(min(ATTENDED, layout.num_patches), dim=1)
                targets, shares = best.indices.int().numpy(), best.values.numpy()
    empty = np.zeros((layout.num_patches, 0))
    return Example(
        name=name,
        image=shown,
        outliers=outliers,
        near=near,
        norms=norms,
        cls_attention=cls,
        register_attention=registers,
        layer=measured,
        attention_layer=None if queries is None else reading,
        pca=colours,
        attends=empty.astype(np.int32) if targets is None else targets,
        attends_share=empty.astype(np.float32) if shares is None else shares,
    )


def flagged(
    trace: Trace, block: int, flags: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> tuple[Float[np.ndarray, "rows cols"], Bool[np.ndarray, "rows cols"], Bool[np.ndarray, "rows cols"]]:
    """Return the norms of the patches of one image after a block, which are outliers, and which are near the threshold.

    Args:
        flags: see `portrait`.
    """
    layout = trace.layout_after(block)
    norms = layout.take(trace.norms(block)[0], -1).float().cpu().numpy()
    outliers, near, there = np.zeros(norms.shape, bool), np.zeros(norms.shape, bool), ~np.isnan(norms)
    outliers[there], near[there] = flags(norms[there])
    return norms.reshape(layout.grid), outliers.reshape(layout.grid), near.reshape(layout.grid)
