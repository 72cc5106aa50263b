"""The images shown on the page: which ones, and their maps at the peak layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vitreg.analysis import maps
from vitreg.analysis.norms import encode
from vitreg.backbones import Backbone, Capture
from vitreg.records import Example
from vitreg.verbs.readout import Readout

ATTENDED = 12  # how many targets of a token's attention the page can show
LARGEST_GRID = 40 * 40  # above, the attention of every token would make the page heavy

Chosen = tuple[int, str, int]  # image number, name, outliers


class Images(Protocol):
    """Where an image can be had once more."""

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        """Pixels for the eye uint8 [H, W, 3], and for the model [1, 3, H, W]."""
        ...


def choose_examples(table: Sequence[Chosen], count: int) -> list[Chosen]:
    """Half of the images with most outliers, half of those with fewest; most first, ties by image number."""
    ordered = sorted(table, key=lambda row: (-row[2], row[0]))
    if len(ordered) <= count:
        return ordered
    return [*ordered[: (count + 1) // 2], *ordered[len(ordered) - count // 2 :]]


def build_examples(
    backbone: Backbone, images: Images, chosen: Sequence[Chosen], readout: Readout, *, attention: bool
) -> list[Example]:
    """Run the chosen images once more and draw their maps. Norms are of the peak layer, attention and PCA of the last block."""
    examples = []
    last, layout = backbone.depth - 1, readout.tally.layout
    rows, cols = layout.grid
    everyone = list(range(layout.length)) if layout.num_patches <= LARGEST_GRID else [*layout.cls, *layout.registers]
    for index, name, _ in chosen:
        shown, pixels = images.again(index)
        with torch.inference_mode():
            trace = backbone.trace(
                pixels, Capture(norms=[readout.peak], hidden=[last], rows=([last], everyone) if attention else None)
            )
            norms = trace.norms(readout.peak)[0, layout.patches].float().cpu().numpy()
            colours = maps.pca_rgb(trace.hidden(last)[:, layout.patches].float(), layout.grid)[0].cpu().numpy()
            cls, registers, targets, shares = None, np.zeros((0, rows, cols), np.float32), None, None
            if attention:
                mean = trace.attention(last, everyone)[0].float().mean(0).cpu()  # [Q, N]
                at = {token: mean[row, layout.patches] for row, token in enumerate(everyone)}
                if layout.cls:
                    cls = at[layout.cls[0]].reshape(rows, cols).numpy()
                if layout.registers:
                    registers = torch.stack([at[r] for r in layout.registers]).reshape(-1, rows, cols).numpy()
                if len(everyone) == layout.length:
                    best = mean[layout.patches, layout.patches].topk(min(ATTENDED, layout.num_patches), dim=1)
                    targets, shares = best.indices.int().numpy(), best.values.numpy()
        empty = np.zeros((layout.num_patches, 0))
        examples.append(
            Example(
                name=name,
                image=shown,
                outliers=readout.outliers(encode(norms), readout.peak).reshape(rows, cols),
                near=readout.near(encode(norms), readout.peak).reshape(rows, cols),
                norms=norms.reshape(rows, cols),
                cls_attention=cls,
                register_attention=registers,
                pca=colours,
                attends=empty.astype(np.int32) if targets is None else targets,
                attends_share=empty.astype(np.float32) if shares is None else shares,
            )
        )
    return examples
