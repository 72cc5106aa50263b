"""A look at a network in training: norms of fixed probe images, and what outliers, background and registers take of the
attention, and which token takes most; `vitreg.training.history` finds the step at which artifacts appear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.backbones import Backbone, load
from vitreg.models.vit import VisionTransformer
from vitreg.records import ScanResult
from vitreg.verbs.scan.attended import (
    Tiles,
    by_register,
    most_attended,
    most_of_foreground,
    norms_of_kinds,
    norms_of_registers,
)  # fmt: skip
from vitreg.verbs.scan.measure import sampled_queries
from vitreg.verbs.scan.taking import Taken, taken_by_block
from vitreg.verbs.scan.verb import ScanOptions, scan

RESAMPLES = 20
"""Of the images, for the verdict of a look: a look is one of many, and what stays is seen again by the next."""


@dataclass(frozen=True)
class Probes:
    """What every look of a run is at.

    Args:
        pixels: the images, prepared for the model.
        background: which patches the data call background; None where they do not say.
        marked: which patches are asked more than others; None where the data do not say.
        maps: of how many images, the first, the norms of all patches are kept.
    """

    pixels: Float[Tensor, "n 3 H W"]
    background: Bool[Tensor, "n rows cols"] | None = None
    maps: int = 0
    marked: Bool[Tensor, "n rows cols"] | None = None


def look(recipe: Any, probes: Probes) -> dict[str, Any]:
    """Look at the network that a recipe trains, on the device where it is; see `norms_of`."""
    return norms_of(
        recipe.backbone(), probes.pixels, background=probes.background, marked=probes.marked, maps=probes.maps
    )


def norms_of(
    network: VisionTransformer, probes: Float[Tensor, "n 3 H W"], *,
    background: Bool[Tensor, "n rows cols"] | None = None, marked: Bool[Tensor, "n rows cols"] | None = None, maps: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Scan a network on the probe images, run it on them once more for single images, and return the values for curves.

    Args:
        background: patches that the data call background; left out if the network has another grid.
        marked: patches that are asked more than others; the same.
        maps: of how many images the norms of all patches are returned.
    Returns:
        the fields of `records.NormsMoment` but the step.
    """
    probes = probes.to(next(network.parameters()).device)
    backbone = load(network)
    result = scan(backbone, probes, options=ScanOptions(examples=0, power=False, resamples=RESAMPLES))
    verdict = result.verdict
    layers = [
        {key: getattr(layer, key) for key in ("median", "p99", "max", "ratio", "outlier_fraction")}
        for layer in result.layers
    ]
    found: dict[str, Any] = {
        "verdict": verdict.kind,
        "strength": verdict.strength,
        "first_layer": verdict.first_layer,
        "peak_layer": verdict.peak_layer,
        "outlier_fraction": verdict.outlier_fraction,
        "layers": layers,
        "histogram": result.layers[-1].histogram.model_dump(),
    }
    if backbone.attention_status().readable:
        taken = _taken(backbone, probes)
        for layer, more in zip(layers, _by_token(taken, result, _tiles(taken, background, marked)), strict=True):
            layer |= more
        if maps:
            found["maps"] = [[[_short(norm) for norm in row] for row in each.norms[:maps].tolist()] for each in taken]
    return found


def _taken(backbone: Backbone, probes: Tensor) -> list[Taken]:
    layouts = backbone.layouts((probes.shape[-2], probes.shape[-1]))
    return taken_by_block(backbone, probes, [sampled_queries(layout) for layout in layouts[:-1]])


def _tiles(taken: list[Taken], background: Tensor | None, marked: Tensor | None) -> Tiles:
    """Return what the data say of the patches; nothing where they have another grid than the network."""
    flat = [None if each is None else each.flatten(1) for each in (background, marked)]
    return Tiles(*(None if each is None or each.shape != taken[0].norms.shape else each for each in flat))


def _by_token(taken: list[Taken], result: ScanResult, tiles: Tiles) -> list[dict[str, Any]]:
    """Return, for each block, the ratio of single images, what kinds of tokens take, each register, and what is looked at most."""
    outliers, known = _outliers(taken, result), tiles.background
    rows = []
    for each in taken:
        kinds = {"outliers": each.by(outliers), "background": each.by(known), "registers": each.by_registers()}
        norms = {"outliers": norms_of_kinds(each, outliers), "background": norms_of_kinds(each, known)}
        row = {
            "image_ratio": each.ratio,
            "attention": {name: pair[0] for name, pair in kinds.items()},
            "values": {name: pair[1] for name, pair in kinds.items()},
            "norms": {**norms, "registers": norms_of_registers(each)},
            "each_register": by_register(each),
            "most": most_attended(each, tiles),
            "foreground": most_of_foreground(each, tiles),
            "sinks": float(each.sinks.mean()),
        }
        rows.append(_shortened(row))
    return rows


def _outliers(taken: list[Taken], result: ScanResult) -> Bool[Tensor, "n P"] | None:
    """Return the outliers of the peak layer; None for a verdict none."""
    peak = result.verdict.peak_layer
    layer = None if peak is None or result.verdict.kind == "none" else result.layers[peak]
    if layer is None or layer.threshold is None:
        return None
    norms = taken[layer.index].norms
    return torch.lt(norms, layer.threshold) if layer.side == "low" else torch.ge(norms, layer.threshold)


def _shortened(value: Any) -> Any:
    """Round every number in nested lists and tables."""
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    return _short(value)


def _short(value: float | None) -> float | None:
    """Round to four digits, as much as a curve can show; None where there is no finite number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
