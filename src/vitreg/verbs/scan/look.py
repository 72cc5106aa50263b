"""A look at a network in training: the norms of fixed probe images; `vitreg.training.history` finds the step at which artifacts appear."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from vitreg.models.vit import VisionTransformer
from vitreg.verbs.scan.verb import ScanOptions, scan


def look(recipe: Any, probes: Float[Tensor, "n 3 H W"]) -> dict[str, Any]:
    """Return the norms of the network that a recipe trains, on the device where it is; see `norms_of`."""
    network = recipe.backbone()
    return norms_of(network, probes.to(next(network.parameters()).device))


def norms_of(network: VisionTransformer, probes: Float[Tensor, "n 3 H W"]) -> dict[str, Any]:
    """Scan a network on the probe images, and return the values for curves over the run.

    Returns:
        "verdict", "strength", "first_layer", "peak_layer", "outlier_fraction" as in a scan's verdict; "layers" with
        median, p99, max, ratio and outlier_fraction of each; "histogram" of the last layer's norms.
    """
    result = scan(network, probes, options=ScanOptions(examples=0, power=False))
    verdict = result.verdict
    return {
        "verdict": verdict.kind,
        "strength": verdict.strength,
        "first_layer": verdict.first_layer,
        "peak_layer": verdict.peak_layer,
        "outlier_fraction": verdict.outlier_fraction,
        "layers": [
            {key: getattr(layer, key) for key in ("median", "p99", "max", "ratio", "outlier_fraction")}
            for layer in result.layers
        ],
        "histogram": result.layers[-1].histogram.model_dump(),
    }
