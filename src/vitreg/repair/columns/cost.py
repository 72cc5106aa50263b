"""What a repair costs: seconds and images to fit, time of a forward, parameters and tokens added, exportable or not."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.repair.repair import Repair
from vitreg.results import RepairCell, RepairColumn

RUNS = 5  # of each model, in turn
AT_ONCE = 8  # images

Better = Literal["smaller", "larger"]
Unit = Literal["", "s", "x"]


def _column(name: str, title: str, unit: Unit, better: Better, meaning: str) -> RepairColumn:
    return RepairColumn(
        name=name, title=title, side="cost", unit=unit, better=better, compared=True, meaning=meaning
    )  # fmt: skip


COLUMNS = (
    _column("fit_seconds", "seconds to fit", "s", "smaller", "How long the fit took, without reading the images."),
    _column("fit_images", "images to fit", "", "smaller", "Images fitted on and chosen with; held-out ones are not counted."),
    _column(
        "latency", "latency", "x", "smaller",
        f"Time of a forward over that of the model as it is, median of {RUNS} runs in turn.",
    ),
    _column(
        "parameters", "parameters added", "", "smaller", "Numbers that the repair keeps beside the weights of the model."
    ),
    _column("tokens", "tokens added", "", "smaller", "Tokens that the longest sequence gained."),
    _column(
        "exportable", "in the weights", "", "larger",
        "1 if the repair changes weights alone, so that every format of export has it.",
    ),
)  # fmt: skip


def costs(repair: Repair | None, before: Backbone, after: Backbone, images: Tensor) -> dict[str, RepairCell]:
    """Return the costs of a repaired model beside the model as it is.

    Args:
        repair: None for a control without a fit.
        images: a batch, prepared.
    """
    size = (images.shape[-2], images.shape[-1])
    edited = len(after.edit_names) > len(before.edit_names)
    found = {"latency": latency(before, after, images[:AT_ONCE]), "tokens": float(tokens_added(before, after, size))}
    if repair is not None:
        found |= {
            "fit_seconds": repair.record.seconds,
            "fit_images": float(repair.record.images),
            "parameters": float(sum(each.numel() for each in repair.tensors.values()) if edited else 0),
            "exportable": float(not edited),
        }
    return {name: RepairCell(value=value) for name, value in found.items()}


def latency(before: Backbone, after: Backbone, images: Tensor) -> float:
    """Return the time of a forward over that of another model, run in turn: the median of the ratios."""
    for backbone in (before, after):
        _timed(backbone, images)
    return statistics.median(_timed(after, images) / _timed(before, images) for _ in range(RUNS))


def _timed(backbone: Backbone, images: Tensor) -> float:
    began = time.perf_counter()
    backbone(images)
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter() - began


def tokens_added(before: Backbone, after: Backbone, size: tuple[int, int]) -> int:
    """Return by how many tokens the longest sequence grew."""
    return max(each.length for each in after.layouts(size)) - max(each.length for each in before.layouts(size))
