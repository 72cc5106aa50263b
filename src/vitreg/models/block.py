"""The transformer block of our ViT and its parts, under timm's parameter names.

A block takes one batch [B, N, D], or several with different N (crops of different sizes). Several are packed into [T,
D]: layers that act on single tokens run once, and only attention runs per batch. Stochastic depth is passed in as a
value (`vitreg.models.depth`), so a block has no randomness of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitreg.models.attend import attend_plainly
from vitreg.models.depth import Draw
from vitreg.models.parts.nothing import with_nothing
from vitreg.models.parts.own import attend_each, own_part
from vitreg.models.parts.rope import Turns, turned
from vitreg.models.parts.switches import USUAL, Switches
from vitreg.models.slots import attend_as_slots

Shapes = list[tuple[int, int]]  # (B, N) of every batch in a pack


class Attention(nn.Module):
    """Multi-head self-attention with one fused q, k, v projection.

    Args:
        bias: of both projections.
        off_by_one: softmax-off-by-one instead of softmax: e^x_i / (1 + sum_j e^x_j).
        gated: multiply what the heads read by sigmoid(W_g x), x the input, before the output projection.
        slots: [start, stop) of tokens whose queries compete for the keys; None if none do.
        num_prefix_tokens: tokens before the patches, which rotary positions leave alone.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        off_by_one: bool = False,
        gated: bool = False,
        slots: tuple[int, int] | None = None,
        num_prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_prefix_tokens = heads, num_prefix_tokens
        self.off_by_one, self.slots = off_by_one, slots
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.gate = nn.Linear(width, width, bias=False) if gated else None
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Float[Tensor, "B N D"], turns: Turns | None = None) -> Float[Tensor, "B N D"]:
        """Attend from every token to every token; `turns` are the rotary positions of the patches."""
        return self.among(x, None, [None], [turns])

    def among(
        self,
        packed: Float[Tensor, "*BN D"],
        shapes: Shapes | None,
        seen: Sequence[Tensor | None],
        turns: Sequence[Turns | None],
    ) -> Float[Tensor, "*BN D"]:
        """Attend from every token to the visible tokens of its image.

        Args:
            packed: what `pack` returned, with its shapes.
            seen: for each batch, which tokens may be attended to, bool [B, N]; None for all.
            turns: for each batch, rotary positions of its patches; None for none.
        """
        batches = unpack(self.qkv(packed), shapes)  # each [B, N, 3 D]
        mixed, _ = pack([self._mix(*each) for each in zip(batches, seen, turns, strict=True)])
        return self.proj(mixed if self.gate is None else mixed * torch.sigmoid(self.gate(packed)))

    def _mix(
        self, qkv: Float[Tensor, "B N 3D"], seen: Bool[Tensor, "B N"] | None, turns: Turns | None
    ) -> Float[Tensor, "B N D"]:
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, d]
        if turns is not None:
            q, k = (turned(x, turns, self.num_prefix_tokens) for x in (q, k))
        mask = None if seen is None else seen[:, None, None]  # [B, 1, 1, N]: the same keys for all queries
        if self.slots is not None:
            return attend_as_slots(q, k, v, mask, self.slots).to(v.dtype).transpose(1, 2).flatten(2)
        if self.off_by_one:
            k, v, mask = with_nothing(k, v, mask)
        # PyTorch's fused kernel has a slow backward pass on the CPU in bfloat16.
        plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
        attend = attend_plainly if plain else F.scaled_dot_product_attention
        return attend(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "*BN D"]) -> Float[Tensor, "*BN D"]:
        """Apply to each token on its own."""
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """A gated MLP, silu(a) * b with a and b from one projection (Shazeer 2020; DINOv2's ViT-g and from-scratch ViT-L)."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden, bias=bias)  # a first, then b
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "*BN D"]) -> Float[Tensor, "*BN D"]:
        """Apply to each token on its own."""
        a, b = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.act(a) * b)


def swiglu_hidden(hidden: int) -> int:
    """Return the width that gives SwiGLU about as many weights as an MLP of `hidden`: two thirds, rounded up to 8.

    >>> swiglu_hidden(4 * 1024)
    2736
    """
    return -(-int(hidden * 2 / 3) // 8) * 8


class LayerScale(nn.Module):
    """Multiply each channel of a residual branch by a learned gain."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Float[Tensor, "*BN D"]) -> Float[Tensor, "*BN D"]:
        """Scale the branch."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block: x + LS(attention(LN x)), then x + LS(mlp(LN x)).

    Args:
        layer_scale: initial gain of both branches; None for branches without one.
        mlp: "mlp", "swiglu", or somebody's function "module:function" (`vitreg.models.parts.own`).
        switches: of norms, attention and biases.
        prefix: tokens before the patches, which rotary positions leave alone.
        bypass: [start, stop) of tokens that skip the block: they stay unchanged and no other token attends to them.
        slots: [start, stop) of tokens whose queries compete for the keys.
    Attributes:
        checkpoint: recompute activations in the backward pass (activation checkpointing).
        attn, mlp: ours, or somebody's.
    """

    attn: Any
    mlp: Any

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        *,
        mlp: str = "mlp",
        norm_eps: float = 1e-6,
        switches: Switches = USUAL,
        prefix: int = 0,
        bypass: tuple[int, int] | None = None,
        slots: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = False
        self.bypass = bypass
        self.norm1 = norm_of(switches.norm, width, norm_eps)
        self.attn = _attention_of(switches, width, heads, prefix, slots)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = norm_of(switches.norm, width, norm_eps)
        self.mlp = _mlp_of(mlp, width, int(width * mlp_ratio), switches.bias)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    @overload
    def forward(
        self,
        x: Tensor,
        draws: tuple[Draw, Draw] | None = None,
        seen: Tensor | None = None,
        turns: Turns | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: list[Tensor],
        draws: Sequence[tuple[Draw, Draw] | None],
        seen: Sequence[Tensor | None],
        turns: Sequence[Turns | None],
    ) -> list[Tensor]: ...

    def forward(self, x, draws=None, seen=None, turns=None):  # pyright: ignore[reportInconsistentOverload]
        """Return the residual stream after this block.

        Args:
            x: [B, N, D], or a list of them; then the others are lists too.
            draws: stochastic depth of the two branches; None where every sample takes both.
            seen: which tokens may be attended to, bool [B, N]; None for all.
            turns: rotary positions of the patches; None for none.
        """
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, draws, seen, turns, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x, draws, seen, turns)

    def _forward(self, x: Any, draws: Any, seen: Any, turns: Any) -> Any:
        if isinstance(x, Tensor):
            return self._pass_by([x], [draws], [seen], [turns])[0]
        return self._pass_by(x, draws, seen, turns)

    def _pass_by(
        self,
        xs: list[Tensor],
        draws: Sequence[tuple[Draw, Draw] | None],
        seen: Sequence[Tensor | None],
        turns: Sequence[Turns | None],
    ) -> list[Tensor]:
        """Run both branches with the bypassing tokens masked, then restore them.

        Masked rather than removed: the block attends over all N tokens like every other, and can be read the same way.
        """
        if self.bypass is None:
            return self._residuals(xs, draws, seen, turns)
        start, stop = self.bypass
        hidden = []
        for x, keys in zip(xs, seen, strict=True):
            keys = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if keys is None else keys.clone()
            keys[:, start:stop] = False
            hidden.append(keys)
        ys = self._residuals(xs, draws, hidden, turns)
        return [torch.cat([y[:, :start], x[:, start:stop], y[:, stop:]], dim=1) for x, y in zip(xs, ys, strict=True)]

    def _residuals(
        self,
        xs: list[Tensor],
        draws: Sequence[tuple[Draw, Draw] | None],
        seen: Sequence[Tensor | None],
        turns: Sequence[Turns | None],
    ) -> list[Tensor]:
        attention = [None if draw is None else draw[0] for draw in draws]
        mlp = [None if draw is None else draw[1] for draw in draws]
        seen = [s if s is None or d is None else d.choose(s) for s, d in zip(seen, attention, strict=True)]
        packed, shapes = pack([x if d is None else d.choose(x) for x, d in zip(xs, attention, strict=True)])
        residuals = unpack(self.ls1(self._attended(self.norm1(packed), shapes, seen, turns)), shapes)
        xs = [x + r if d is None else d.add(x, r) for x, r, d in zip(xs, residuals, attention, strict=True)]
        packed, shapes = pack([x if d is None else d.choose(x) for x, d in zip(xs, mlp, strict=True)])
        residuals = unpack(self.ls2(self.mlp(self.norm2(packed))), shapes)
        return [x + r if d is None else d.add(x, r) for x, r, d in zip(xs, residuals, mlp, strict=True)]

    def _attended(
        self,
        normed: Float[Tensor, "*BN D"],
        shapes: Shapes | None,
        seen: Sequence[Tensor | None],
        turns: Sequence[Turns | None],
    ) -> Float[Tensor, "*BN D"]:
        # Prefer the plain call: hooks on the module and replacement modules support nothing else.
        if shapes is None and seen[0] is None:
            return self.attn(normed) if turns[0] is None else self.attn(normed, turns[0])
        if isinstance(self.attn, Attention):
            return self.attn.among(normed, shapes, seen, turns)
        return pack(attend_each(self.attn, unpack(normed, shapes), seen))[0]


class RMSNorm(nn.RMSNorm):
    """PyTorch's, in float32 under autocast, as autocast runs LayerNorm: PyTorch's kernel takes one dtype only, and warns."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x over its root mean square, times the weight."""
        return super().forward(x.to(self.weight.dtype) if torch.is_autocast_enabled(x.device.type) else x)


def norm_of(word: str, width: int, eps: float) -> nn.Module:
    """Build the norm that a setting names: "layernorm", "rmsnorm" or "module:function"."""
    known = {"layernorm": nn.LayerNorm, "rmsnorm": RMSNorm}
    return known[word](width, eps=eps) if word in known else own_part(word, width=width, eps=eps)


def _attention_of(form: Switches, width: int, heads: int, prefix: int, slots: tuple[int, int] | None) -> nn.Module:
    if form.attention in ("softmax", "off-by-one"):
        return Attention(
            width, heads, bias=form.bias, off_by_one=form.attention == "off-by-one", gated=form.gate,
            num_prefix_tokens=prefix, slots=slots,
        )  # fmt: skip
    return own_part(form.attention, width=width, heads=heads, bias=form.bias)


def _mlp_of(word: str, width: int, hidden: int, bias: bool) -> nn.Module:
    if word == "swiglu":
        return SwiGLU(width, swiglu_hidden(hidden), bias=bias)
    return Mlp(width, hidden, bias=bias) if word == "mlp" else own_part(word, width=width, hidden=hidden, bias=bias)


def pack(batches: list[Tensor]) -> tuple[Tensor, Shapes | None]:
    """Concatenate the tokens of several batches [B, N, D] into [T, D]; a single batch is returned unchanged, without
    shapes."""
    if len(batches) == 1:
        return batches[0], None
    return torch.cat([x.flatten(0, 1) for x in batches]), [(x.shape[0], x.shape[1]) for x in batches]


def unpack(packed: Tensor, shapes: Shapes | None) -> list[Tensor]:
    """Undo `pack`."""
    if shapes is None:
        return [packed]
    parts = packed.split([b * n for b, n in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]
