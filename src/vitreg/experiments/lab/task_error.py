"""The error of a model on the lab's task, read off the tokens that come out: also of a model that is edited or repaired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.data.sets.synthetic.naming import Synthetic, named
from vitreg.data.sets.synthetic.tilings import Tiling, Tilings, TilingSet
from vitreg.errors import UserError

BATCH = 64
UNSEEN = "synthetic:retrieval@0:1024"
"""Its validation side has 256 images, which no run trains on."""


def task_error(backbone: Backbone, data: str = UNSEEN, *, images: int = 256) -> float:
    """Return the mean squared error of what marked tiles are asked of others: the metric `val_asked` of a run.

    Args:
        backbone: a ViT of ours with a head that gives `channels` numbers for every patch, such as `vitreg:born`; its edits act.
        data: `synthetic:retrieval`, whose validation side is read.
        images: at most so many, spread evenly over the side, as a run takes its own.
    Raises:
        UserError: for other data, and for a model without such a head.
    """
    synthetic = _retrieval(data)
    head = getattr(backbone.anatomy.tower, "head", None)
    if getattr(head, "out_features", None) != synthetic.parameters.channels:
        raise UserError(
            f"{backbone.spec} has no head that gives {synthetic.parameters.channels} numbers for every patch, as {data} asks."
        )
    drawn, own = TilingSet(Tilings(synthetic, "val"), images), synthetic.parameters.code
    total, count = 0.0, 0
    for start in range(0, len(drawn), BATCH):
        some = [drawn.drawn(place) for place in range(start, min(start + BATCH, len(drawn)))]
        wanted = torch.from_numpy(np.stack([each.tiles.asked for each in some]))
        asked = torch.from_numpy(np.stack([each.tiles.marked for each in some]))
        squared = (_predicted(backbone, head, some) - wanted)[..., own:].square().mean(-1)  # [B, P]
        total, count = total + float(squared[asked].sum()), count + int(asked.sum())
    return total / max(1, count)


def _retrieval(data: str) -> Synthetic:
    synthetic = named(data)
    if synthetic is None or synthetic.name != "retrieval":
        raise UserError(f"'{data}' is not the task of the lab; give synthetic:retrieval.")
    return synthetic


def _predicted(backbone: Backbone, head: Any, tilings: Sequence[Tiling]) -> Float[Tensor, "B P C"]:
    prepare = backbone.prepared()
    pixels = torch.stack([prepare(each.image) for each in tilings]).to(backbone.device)
    with torch.inference_mode():
        return head(backbone(pixels).patches).float().cpu()
