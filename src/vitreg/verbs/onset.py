"""Watching artifacts appear: the norms of fixed probe images as a run goes on (the paper, Sec. 2.1, Fig. 4b).

What looks needs torch and is imported when it looks; saying when they appeared needs the records alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from vitreg.models.vit import VisionTransformer


def norms_of(network: VisionTransformer, probes: Float[Tensor, "n 3 H W"]) -> dict[str, Any]:
    """Scan a network on the probe images, and keep what a curve over the run needs.

    Returns:
        "verdict", "strength", "first_layer", "peak_layer", "outlier_fraction" as in a scan's verdict; "layers" with
        median, p99, max, ratio and outlier_fraction of each; "histogram" of the last layer's norms.
    """
    from vitreg.verbs.scan import ScanOptions, scan

    result = scan(network, probes, options=ScanOptions(examples=0))
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


def onset(records: Sequence[dict[str, Any]]) -> int | None:
    """Return the step from which on every record of the run shows artifacts; None if the last one shows none.

    Args:
        records: of the kind "norms", in order.
    """
    first = None
    for record in records:
        if record["verdict"] == "none":
            first = None
        elif first is None:
            first = record["step"]
    return first
