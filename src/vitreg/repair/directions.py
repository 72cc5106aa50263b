"""The direction that a model's blocks, taken as linear maps, lengthen most: SINDER's prediction of where outliers point,
from the weights (Wang et al. 2024).

Per block, for D channels and tokens of standard deviation s over their channels,

    A = diag(ls1) W_proj W_v diag(gamma1) (I - 1 1^T / D) / s + I        attention, each token seeing its like
    C = least-squares map of x -> ls2(MLP(LN2(x))) over Gaussian tokens of deviation s, + I

and G = C_l A_l ... C_0 A_0. The predicted direction after block l is the leading left singular vector of G. What attention
moves between tokens, and what a position table writes, no such map can tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.anatomy.values import norm_before_attention, value_weight
from vitreg.errors import UserError
from vitreg.repair.outliers import patch_norms
from vitreg.repair.subject import Subject

SAMPLES = 64  # Gaussian tokens for each channel (ours)
AT_ONCE = 4096
SECOND = ("norm2", "ln_2", "layer_norm2", "layernorm_after")
SCALES = ("ls1", "layer_scale1", "gamma_1"), ("ls2", "layer_scale2", "gamma_2")


@dataclass(frozen=True)
class Branches:
    """The two branches of a block, in float64 where they are matrices."""

    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    scale1: Any  # a module, a vector, or None
    scale2: Any
    values: Float[Tensor, "V D"]
    output: Float[Tensor, "D V"]


def branches(backbone: Backbone, block: int) -> Branches:
    """Return the branches of a block by the names that libraries give them.

    Raises:
        UserError: for a block that is built otherwise.
    """
    module, anatomy = backbone.anatomy.blocks[block], backbone.anatomy
    norm1, norm2, mlp = norm_before_attention(module), _first(module, SECOND), getattr(module, "mlp", None)
    if norm1 is None or norm2 is None or mlp is None or not anatomy.attention:
        raise UserError(
            f"the norms, attention and MLP of block {block} of {backbone.spec} are not recognised, so no linear map stands for "
            "them; test-time and substitute need none."
        )
    parts = anatomy.attention[block]
    values, output = value_weight(parts).detach().double(), parts.output_weight().detach().double()
    size = output.shape[1] // parts.heads
    if values.shape[0] < output.shape[1]:  # grouped queries: several heads read one value
        values = values.unflatten(0, (-1, size)).repeat_interleave(output.shape[1] // values.shape[0], 0).flatten(0, 1)
    return Branches(norm1, norm2, mlp, _first(module, SCALES[0]), _first(module, SCALES[1]), values, output)


@torch.no_grad()
def block_map(backbone: Backbone, block: int, deviation: float = 1.0, seed: int = 0) -> Float[Tensor, "D D"]:
    """Return C A of a block, float64.

    Args:
        deviation: s, of a token over its channels.
    Raises:
        UserError: for a block whose parts are not recognised.
    """
    own, width = branches(backbone, block), backbone.anatomy.width
    identity = torch.eye(width, dtype=torch.float64)
    gain = getattr(own.norm1, "weight", None)
    gain = torch.ones(width, dtype=torch.float64) if gain is None else gain.double().cpu()
    centred = identity - 1 / width if isinstance(own.norm1, nn.LayerNorm) else identity  # RMSNorm does not centre
    attention = own.output.cpu() @ own.values.cpu() @ (gain[:, None] * centred) / deviation
    attention = _scaled(own.scale1, attention.T).T + identity
    return (_mlp_map(backbone, own, deviation, seed) + identity) @ attention


def _mlp_map(backbone: Backbone, own: Branches, deviation: float, seed: int) -> Float[Tensor, "D D"]:
    """The least-squares map with an intercept, from sums over Gaussian tokens."""
    width, draw = backbone.anatomy.width, torch.Generator().manual_seed(seed)
    inputs = torch.zeros(width, width, dtype=torch.float64)
    products, mean_in, mean_out = torch.zeros_like(inputs), torch.zeros(width).double(), torch.zeros(width).double()
    count = SAMPLES * width
    for start in range(0, count, AT_ONCE):
        tokens = torch.randn(min(AT_ONCE, count - start), width, generator=draw) * deviation
        given = tokens.to(backbone.device, backbone.dtype)[None]
        found = _scaled(own.scale2, own.mlp(own.norm2(given)))[0].double().cpu()
        x = tokens.double()
        inputs += x.T @ x
        products += x.T @ found
        mean_in += x.sum(0)
        mean_out += found.sum(0)
    inputs -= torch.outer(mean_in, mean_in) / count
    products -= torch.outer(mean_in, mean_out) / count
    return torch.linalg.solve(inputs, products).T


def _scaled(scale: Any, values: Tensor) -> Tensor:
    """Apply a layer scale, a module or a vector, to values [..., D]."""
    if scale is None:
        return values
    if isinstance(scale, nn.Module):
        parameter = next(scale.parameters(), None)
        return values if parameter is None else values * parameter.detach().to(values)
    return values * scale.detach().to(values)


def _first(module: nn.Module, names: Sequence[str]) -> Any:
    found = (getattr(module, name, None) for name in names)
    return next((each for each in found if each is not None), None)


def predicted_directions(
    backbone: Backbone, deviations: Sequence[float] | None = None, *, upto: int | None = None
) -> Float[Tensor, "L D"]:
    """Return the predicted direction after each block, unit vectors without a sign, float64.

    Args:
        deviations: of the tokens that enter each block, see `deviations_of`; 1 everywhere if None, from weights alone.
        upto: the last block, all if None.
    """
    blocks = range(backbone.depth if upto is None else upto + 1)
    product, found = torch.eye(backbone.anatomy.width, dtype=torch.float64), []
    for block in blocks:
        product = block_map(backbone, block, 1.0 if deviations is None else deviations[block]) @ product
        product = product / torch.linalg.matrix_norm(product)  # only directions count
        found.append(torch.linalg.svd(product).U[:, 0])
    return torch.stack(found)


def deviations_of(subject: Subject) -> list[float]:
    """Return the standard deviation over channels of the patches that enter each block, mean over images."""
    depth, total, count = subject.backbone.depth, torch.zeros(subject.backbone.depth, dtype=torch.float64), 0
    capture = Capture(hidden=range(depth - 1), input=True)
    for pixels in subject.batches():
        trace = subject.backbone.trace(pixels, capture)
        entering = [trace.input, *(trace.hidden(block) for block in range(depth - 1))]
        for block, tokens in enumerate(entering):
            patches = trace.layout_before(block).take(tokens).float()
            total[block] += float(patches.std(2, correction=0).nanmean(1).double().sum())
        count += len(pixels)
    return (total / count).tolist()


def measured_direction(subject: Subject) -> Float[Tensor, "D"]:
    """Return the unit vector from the mean ordinary patch to the mean outlier after the onset, float64."""
    outliers, block = subject.outliers, subject.outliers.onset
    sums, counts = torch.zeros(2, subject.backbone.anatomy.width, dtype=torch.float64), [0, 0]
    for pixels in subject.batches():
        trace = subject.backbone.trace(pixels, Capture(hidden=[block]))
        norms = patch_norms(trace, block)
        beyond = outliers.beyond(norms)
        patches = trace.layout_after(block).take(trace.hidden(block)).double()
        for row, members in enumerate((beyond, ~beyond & ~norms.isnan())):
            sums[row] += patches[members].sum(0).cpu()
            counts[row] += int(members.sum())
    if not counts[0]:
        raise UserError("none of these images has an outlier, so their direction is unknown; take more images.")
    difference = sums[0] / counts[0] - sums[1] / max(counts[1], 1)
    return difference / difference.norm()


def angle(a: Float[Tensor, "D"], b: Float[Tensor, "D"]) -> float:
    """Return the angle between two lines in degrees, 0 to 90."""
    cosine = (a.double() @ b.double()).abs() / (a.double().norm() * b.double().norm())
    return math.degrees(math.acos(min(1.0, float(cosine))))
