"""The transformer block of our ViT and its parts, under timm's parameter names.

A block takes one batch [B, N, D], or several with different N (crops of different sizes). Several are packed into [T,
D]: layers that act on single tokens run once, and only attention runs per batch. Stochastic depth is passed in as a
value (`vitreg.models.depth`), so a block has no randomness of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitreg.models.attend import attend_plainly
from vitreg.models.depth import Draw
from vitreg.models.slots import attend_as_slots

Shapes = list[tuple[int, int]]  # (B, N) of every batch in a pack


class Attention(nn.Module):
    """Multi-head self-attention with one fused q, k, v projection.

    Args:
        slots: [start, stop) of tokens whose queries compete for the keys; None if none do.
    """

    def __init__(self, width: int, heads: int, slots: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.num_heads = heads
        self.slots = slots
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Attend from every token to every token."""
        return self.among(x, None, [None])

    def among(
        self, packed: Float[Tensor, "*BN D"], shapes: Shapes | None, seen: Sequence[Tensor | None]
    ) -> Float[Tensor, "*BN D"]:
        """Attend from every token to the visible tokens of its image.

        Args:
            packed: what `pack` returned, with its shapes.
            seen: for each batch, which tokens may be attended to, bool [B, N]; None for all.
        """
        batches = unpack(self.qkv(packed), shapes)  # each [B, N, 3 D]
        mixed, _ = pack([self._mix(qkv, keys) for qkv, keys in zip(batches, seen, strict=True)])
        return self.proj(mixed)

    def _mix(self, qkv: Float[Tensor, "B N 3D"], seen: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, d]
        mask = None if seen is None else seen[:, None, None]  # [B, 1, 1, N]: the same keys for all queries
        if self.slots is not None:
            return attend_as_slots(q, k, v, mask, self.slots).to(v.dtype).transpose(1, 2).flatten(2)
        # PyTorch's fused kernel has a slow backward pass on the CPU in bfloat16.
        plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
        attend = attend_plainly if plain else F.scaled_dot_product_attention
        return attend(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*BN D"]) -> Float[Tensor, "*BN D"]:
        """Apply to each token on its own."""
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """A gated MLP, silu(a) * b with a and b from one projection (Shazeer 2020; DINOv2's ViT-g and from-scratch ViT-L)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)  # a first, then b
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(hidden, width)

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
        bypass: [start, stop) of tokens that skip the block: they stay unchanged and no other token attends to them.
        slots: [start, stop) of tokens whose queries compete for the keys.
    Attributes:
        checkpoint: recompute activations in the backward pass (activation checkpointing).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        *,
        mlp: Literal["mlp", "swiglu"] = "mlp",
        norm_eps: float = 1e-6,
        bypass: tuple[int, int] | None = None,
        slots: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = False
        self.bypass = bypass
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, slots)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = SwiGLU(width, swiglu_hidden(hidden)) if mlp == "swiglu" else Mlp(width, hidden)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    @overload
    def forward(self, x: Tensor, draws: tuple[Draw, Draw] | None = None, seen: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, x: list[Tensor], draws: Sequence[tuple[Draw, Draw] | None], seen: Sequence[Tensor | None]
    ) -> list[Tensor]: ...

    def forward(self, x, draws=None, seen=None):  # pyright: ignore[reportInconsistentOverload]
        """Return the residual stream after this block.

        Args:
            x: [B, N, D], or a list of them; then `draws` and `seen` are lists too.
            draws: stochastic depth of the two branches; None where every sample takes both.
            seen: which tokens may be attended to, bool [B, N]; None for all.
        """
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, draws, seen, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x, draws, seen)

    def _forward(self, x: Any, draws: Any, seen: Any) -> Any:
        if isinstance(x, Tensor):
            return self._pass_by([x], [draws], [seen])[0]
        return self._pass_by(x, draws, seen)

    def _pass_by(
        self, xs: list[Tensor], draws: Sequence[tuple[Draw, Draw] | None], seen: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Run both branches with the bypassing tokens masked, then restore them.

        Masked rather than removed: the block attends over all N tokens like every other, and can be read the same way.
        """
        if self.bypass is None:
            return self._residuals(xs, draws, seen)
        start, stop = self.bypass
        hidden = []
        for x, keys in zip(xs, seen, strict=True):
            keys = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if keys is None else keys.clone()
            keys[:, start:stop] = False
            hidden.append(keys)
        ys = self._residuals(xs, draws, hidden)
        return [torch.cat([y[:, :start], x[:, start:stop], y[:, stop:]], dim=1) for x, y in zip(xs, ys, strict=True)]

    def _residuals(
        self, xs: list[Tensor], draws: Sequence[tuple[Draw, Draw] | None], seen: Sequence[Tensor | None]
    ) -> list[Tensor]:
        attention = [None if draw is None else draw[0] for draw in draws]
        mlp = [None if draw is None else draw[1] for draw in draws]
        seen = [s if s is None or d is None else d.choose(s) for s, d in zip(seen, attention, strict=True)]
        packed, shapes = pack([x if d is None else d.choose(x) for x, d in zip(xs, attention, strict=True)])
        normed = self.norm1(packed)
        # Prefer the plain call: hooks on the module and replacement modules support nothing else.
        plain = shapes is None and seen[0] is None
        residuals = unpack(self.ls1(self.attn(normed) if plain else self.attn.among(normed, shapes, seen)), shapes)
        xs = [x + r if d is None else d.add(x, r) for x, r, d in zip(xs, residuals, attention, strict=True)]
        packed, shapes = pack([x if d is None else d.choose(x) for x, d in zip(xs, mlp, strict=True)])
        residuals = unpack(self.ls2(self.mlp(self.norm2(packed))), shapes)
        return [x + r if d is None else d.add(x, r) for x, r, d in zip(xs, residuals, mlp, strict=True)]


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
