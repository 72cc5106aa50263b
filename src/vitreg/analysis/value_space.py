"""Are outliers in the null space of the value projection? The paper leaves this open; here it is measured head by head.

W_v of a head is d x D, so a random direction already lies in its null space to (D - d) / D: what is said of outliers is said of
other patches and of random directions too. With n, LN1's output before its weight and bias, a value is M n + W_v bias + b, where
M = W_v diag(weight).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.anatomy.values import norm_before_attention, value_weight
from vitreg.errors import UserError
from vitreg.quantities import percent

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the recomputed values, by the dtype the model runs in
EXACT = 1e-3
RMS_TOLERANCE = 2e-2  # of its largest value, in any precision


@dataclass(frozen=True)
class ValueProjection:
    """The map from a normalised token to the values of all heads.

    Args:
        weight: W_v.
        gain: weight of the norm before it.
        centred: whether that norm takes the mean out, as LayerNorm does.
    """

    weight: Float[Tensor, "heads d D"]
    gain: Float[Tensor, "D"]
    centred: bool

    @cached_property
    def inverse(self) -> Float64[Tensor, "heads d d"]:
        """The pseudo-inverse of M M^T."""
        rows = (self.weight * self.gain).cpu().double()
        smallest = (
            max(rows.shape[1:]) * torch.finfo(torch.float32).eps
        )  # of the singular values, as far as float32 tells
        return torch.linalg.pinv(rows @ rows.transpose(1, 2), rtol=smallest**2, hermitian=True)

    def projected(self, normed: Float[Tensor, "n D"]) -> Float[Tensor, "heads n d"]:
        """Return W_v z of LN1's output z, without b."""
        return torch.einsum("hdc,nc->hnd", self.weight, normed)

    def outside(self, plain: Float[Tensor, "n D"]) -> Float64[Tensor, "heads n"]:
        """Return the share of the squared norm that lies outside the row space of M."""
        image = self.projected(plain * self.gain).cpu().double()
        inside = torch.einsum("hnd,hde,hne->hn", image, self.inverse, image)
        return 1 - inside / plain.cpu().double().square().sum(1).clamp(min=1e-300)

    @cached_property
    def outside_random(self) -> Float64[Tensor, "heads"]:
        """The same expected of a random direction, centred where the norm centres."""
        rows = (self.weight * self.gain).cpu().double()
        width = rows.shape[2]
        rank = torch.einsum("hde,hed->h", self.inverse, rows @ rows.transpose(1, 2))  # trace of a projection
        if not self.centred:
            return 1 - rank / width
        ones = rows.sum(2)
        return 1 - (rank - torch.einsum("hd,hde,he->h", ones, self.inverse, ones) / width) / (width - 1)


Outliers = Callable[[Tensor, int], Tensor]  # norms [P] after a block, the block -> bool [P]


class ValueSums:
    """Sums over images of what the value projections of some blocks make of outliers and of other patches.

    Raises:
        UserError: for a block whose norm or projections are not recognised.
    """

    def __init__(self, backbone: Backbone, blocks: Sequence[int]) -> None:
        self.backbone, self.blocks = backbone, blocks
        self._projections = {block: projection_of(backbone, block) for block in blocks}
        self._sums: dict[int, Tensor] = {}  # [kind of patch, length | length without b | outside, heads]
        self._counts = {block: torch.zeros(2) for block in blocks}
        before = [block - 1 for block in blocks]
        self._capture = Capture(norms=before, hidden=before, projected=blocks)

    def add(self, pixels: Float[Tensor, "1 3 H W"], outliers: Outliers) -> None:
        """Add one image.

        Raises:
            UserError: for a block whose values are not a projection of its norm's output.
        """
        with torch.inference_mode():
            trace = self.backbone.trace(pixels, self._capture)
            for block in self.blocks:
                layout = trace.layout_before(block)
                there = layout.patch_index[layout.present]
                marked = outliers(trace.norms(block - 1)[0, there.to(trace.norms(block - 1).device)], block - 1).cpu()
                given = trace.hidden(block - 1)[0]
                numbers = self._numbers(block, given, trace.projected_qkv(block).v[0].float())[..., there]
                split = torch.stack([numbers[..., marked].sum(-1), numbers[..., ~marked].sum(-1)])
                self._sums[block] = self._sums.get(block, 0) + split
                self._counts[block] += torch.tensor([int(marked.sum()), int((~marked).sum())])

    def _numbers(
        self, block: int, given: Float[Tensor, "N D"], values: Float[Tensor, "heads N d"]
    ) -> Float64[Tensor, "3 heads N"]:
        projection = self._projections[block]
        normed, plain = both_normed(norm_of(self.backbone, block), given)
        own = projection.projected(normed)
        bias = (values - own).mean(1, keepdim=True)  # b, the same for all tokens if this is how values are made
        off = float((values - own - bias).abs().max() / values.abs().max().clamp(min=1e-30))
        if off > TOLERANCE.get(self.backbone.dtype, EXACT):
            raise UserError(
                f"the values of block {block} are not a projection of its norm's output alone: they differ by {percent(off)}."
            )
        lengths = [each.norm(dim=2).cpu().double() for each in (values, own)]
        return torch.stack([*lengths, projection.outside(plain)])

    def result(self, rounded: Callable[[float], float]) -> list[dict[str, Any]]:
        """Return the fields of `vitreg.records.ValueSpace` for each block that had both kinds of patches."""
        found = []
        for block in self.blocks:
            counts = self._counts[block]
            if not counts.all():
                continue
            outliers, others = self._sums[block] / counts[:, None, None]
            length, without = outliers[:2] / others[:2].clamp(min=1e-300)
            numbers = {
                "length": length,
                "length_without_bias": without,
                "outside": outliers[2],
                "outside_normal": others[2],
                "outside_random": self._projections[block].outside_random,
            }
            lists = {name: [rounded(each) for each in row.tolist()] for name, row in numbers.items()}
            found.append({"block": block, "outliers": int(counts[0]), **lists})
        return found


def norm_of(backbone: Backbone, block: int) -> nn.Module:
    """Return the norm before the attention of a block.

    Raises:
        UserError: if it is not recognised.
    """
    norm = norm_before_attention(backbone.anatomy.blocks[block])
    if norm is None:
        raise UserError(f"the norm before the attention of block {block} is not recognised.")
    return norm


def projection_of(backbone: Backbone, block: int) -> ValueProjection:
    """Return the value projection of a block.

    Raises:
        UserError: if it is not known.
    """
    if not backbone.anatomy.attention:
        raise UserError(f"the value projections of this {type(backbone.anatomy.tower).__name__} are not known.")
    norm, parts = norm_of(backbone, block), backbone.anatomy.attention[block]
    weight = value_weight(parts).detach().float()
    size = parts.output_weight().shape[1] // parts.heads  # d; with grouped queries there are fewer heads of values
    gain = getattr(norm, "weight", None)
    ones = torch.ones(weight.shape[1], device=weight.device)
    return ValueProjection(
        weight=weight.unflatten(0, (-1, size)),
        gain=ones if gain is None else gain.detach().float(),
        centred=isinstance(norm, nn.LayerNorm),
    )


def both_normed(norm: nn.Module, given: Float[Tensor, "n D"]) -> tuple[Float[Tensor, "n D"], Float[Tensor, "n D"]]:
    """Return the output of a norm, and the same before its weight and bias, in float32.

    Raises:
        UserError: for a norm that is neither a LayerNorm nor an RMSNorm.
    """
    gain, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    x = given.float()
    if isinstance(norm, nn.LayerNorm):
        plain = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
        normed = plain if gain is None else plain * gain.float()
        return (normed if shift is None else normed + shift.float()), plain
    plain, normed = x * x.square().mean(1, keepdim=True).clamp(min=1e-30).rsqrt(), norm(given).float()
    expected = plain if gain is None else plain * gain.float()
    if shift is not None or (normed - expected).abs().max() > RMS_TOLERANCE * normed.abs().max():
        raise UserError(f"the norm before attention, a {type(norm).__name__}, is neither a LayerNorm nor an RMSNorm.")
    return normed, plain
