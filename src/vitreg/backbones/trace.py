"""What to keep of a forward pass (`Capture`), and the kept values (`Trace`, `QKV`).

Block outputs (`hidden`) are taken before the final norm, where the paper measures token norms (Sec. 2.1); `final` is
what the model returns. Queries, keys and values exist twice: `qkv` as attention uses them (after qk-norm and rotary
embedding), and `projected_qkv` as the projection outputs them, which LOST reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.backbones.sites import resolve_layer
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout, Tokens

Layers = Literal["all"] | Sequence[int]
T = TypeVar("T")
ReadersOf = Callable[[Float[Tensor, "B heads Q M"]], Bool[Tensor, "B heads"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """What to keep of a forward pass. Layers are "all" or block indices; -1 is the last block.

    Args:
        hidden: block outputs [B, N, D], before the final norm.
        norms: only their L2 norms, float32 [B, N]; needs little memory.
        qkv: q, k, v as attention saw them.
        projected: q, k, v as the projection wrote them, before qk-norm and rotary embedding.
        rows: attention of these query tokens only, float32 [B, heads, Q, N], without keeping q, k, v: a mapping
            layer -> queries, or (layers, queries) for the same queries in each.
        read: with the rows, of which heads to keep what these queries read (attention · v) and the norms of all values:
            a function of the rows of a block that returns bool [B, heads].
        mlp: the input of the last projection of the MLP [B, N, hidden].
        input: the tokens [B, N, D] that enter block 0.
        patch_embeddings: the output of the patch projection [B, P, D], before positions are added.
    """

    hidden: Layers = ()
    norms: Layers = ()
    qkv: Layers = ()
    projected: Layers = ()
    rows: Mapping[int, Sequence[int]] | tuple[Layers, Sequence[int]] | None = None
    read: ReadersOf | None = None
    mlp: Layers = ()
    input: bool = False
    patch_embeddings: bool = False

    def resolve(self, depth: int, lengths: Sequence[int]) -> ResolvedCapture:
        """Turn "all" and negative indices into block indices.

        Args:
            depth: number of blocks.
            lengths: number of input tokens of each block.

        Raises:
            UserError: if a block or a query token does not exist.
        """
        rows: dict[int, tuple[int, ...]] = {}
        if isinstance(self.rows, Mapping):
            rows = {resolve_layer(layer, depth): tuple(queries) for layer, queries in self.rows.items()}
        elif self.rows is not None:
            layers, queries = self.rows
            rows = dict.fromkeys(sorted(_resolve(layers, depth)), tuple(queries))
        for layer, queries in rows.items():
            if queries and not 0 <= min(queries) <= max(queries) < (length := lengths[layer]):
                query = next(query for query in queries if not 0 <= query < length)
                raise UserError(f"no token {query} to query in a sequence of {length} tokens (0 to {length - 1}).")
        return ResolvedCapture(
            hidden=_resolve(self.hidden, depth),
            norms=_resolve(self.norms, depth),
            qkv=_resolve(self.qkv, depth),
            projected=_resolve(self.projected, depth),
            rows=rows,
            read=self.read,
            mlp=_resolve(self.mlp, depth),
            input=self.input,
            patch_embeddings=self.patch_embeddings,
        )


NORMS = Capture(norms="all")
"""What costs no memory worth counting, and shows where outliers are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedCapture:
    """A `Capture` for one model: sets of block indices."""

    hidden: frozenset[int]
    norms: frozenset[int]
    qkv: frozenset[int]
    projected: frozenset[int]
    rows: Mapping[int, tuple[int, ...]]
    read: ReadersOf | None
    mlp: frozenset[int]
    input: bool
    patch_embeddings: bool

    @property
    def attention(self) -> frozenset[int]:
        """Blocks whose attention must be read."""
        return self.qkv | frozenset(self.rows)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """What some queries of one block look at and read in n heads of its images, in float32; keys of no token stand last."""

    image: Int64[Tensor, "n"]
    head: Int64[Tensor, "n"]
    weights: Float[Tensor, "n Q M"]
    mixed: Float[Tensor, "n Q d"]
    value_norms: Float[Tensor, "n M"]


@dataclass(frozen=True, slots=True)
class QKV:
    """Queries, keys and values of one block and how they are compared: softmax(q kᵀ · scale + mask) v.

    Args:
        k: may have fewer heads than q (grouped queries); query head h reads key head h // (heads / key heads). An edit
            may append E keys and values that belong to no token: M = N + E.
        mask: added to the logits (float) or True where attention is allowed (bool), broadcastable to [B, heads, N, M].
        causal: token i sees tokens 0..i only.
    """

    q: Float[Tensor, "B heads N d"]
    k: Float[Tensor, "B kv_heads M d"]
    v: Float[Tensor, "B kv_heads M d"]
    scale: float
    mask: Tensor | None = None
    causal: bool = False

    def with_keys(self, k: Float[Tensor, "B kv_heads E d"], v: Float[Tensor, "B kv_heads E d"]) -> QKV:
        """Return a copy with appended keys and values that every token may attend to."""
        mask, extra = self.mask, k.shape[2]
        if mask is not None:
            mask = F.pad(mask.expand(*mask.shape[:-1], self.k.shape[2]), (0, extra), value=mask.dtype == torch.bool)
        return replace(self, k=torch.cat([self.k, k], 2), v=torch.cat([self.v, v], 2), mask=mask)

    def with_bias(self, bias: Tensor) -> QKV:
        """Return a copy with a bias added to the logits, broadcastable to [B, heads, N, M]."""
        mask = self.mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill_(~mask, -torch.inf)
        if self.causal:  # PyTorch's kernel takes a mask or `causal`, not both
            later = torch.ones(self.q.shape[2], self.k.shape[2], dtype=torch.bool, device=bias.device).triu(1)
            bias = torch.where(later, -torch.inf, bias)
        return replace(self, mask=bias if mask is None else mask + bias, causal=False)

    def attend(self, weights: Float[Tensor, "B heads N M"] | None = None) -> Float[Tensor, "B heads N d"]:
        """Return attention · v in the dtype of v, with PyTorch's kernel where no weights are given."""
        if weights is not None:
            with _without_autocast(self.q):
                return (weights @ self._spread(self.v).float()).to(self.v.dtype)
        mask = self.mask if self.mask is None or self.mask.dtype == torch.bool else self.mask.to(self.q.dtype)
        grouped = self.q.shape[1] != self.k.shape[1]
        return F.scaled_dot_product_attention(
            self.q, self.k, self.v, mask, is_causal=self.causal, scale=self.scale, enable_gqa=grouped
        )

    def rows(self, queries: Sequence[int] | None = None) -> Float[Tensor, "B heads Q M"]:
        """Return softmax attention of some query tokens (None: all) over all keys, in float32."""
        index = slice(None) if queries is None else list(queries)
        with _without_autocast(self.q):
            q = self.q[:, :, index].float()
            # Keys are strided in the fused projection; with a contiguous copy the product takes less than half the
            # time.
            keys = self._spread(self.k).to(torch.float32, memory_format=torch.contiguous_format)
            logits = (q * self.scale) @ keys.transpose(-2, -1)  # [B, heads, Q, N]
            if self.mask is not None:
                mask = self.mask if self.mask.shape[-2] == 1 else self.mask[..., index, :]
                logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.float()
            if self.causal:
                seen = torch.ones(self.q.shape[2], self.k.shape[2], dtype=torch.bool, device=q.device).tril()[index]
                logits = logits.masked_fill(~seen, -torch.inf)
            return logits.softmax(dim=-1)

    def read_by(self, rows: Float[Tensor, "B heads Q M"], which: Bool[Tensor, "B heads"]) -> ReadRows:
        """Return what queries with these attention rows read in some heads, and the norms of all values there."""
        image, head = which.nonzero(as_tuple=True)
        groups = self.q.shape[1] // self.v.shape[1]
        with _without_autocast(self.q):
            weights, values = rows[image, head], self.v[image, head // groups].float()  # [n, M, d]
            return ReadRows(image, head, weights, weights @ values, torch.linalg.vector_norm(values, dim=-1))

    def mixed(self) -> Float[Tensor, "B N heads_d"]:
        """Return attention · v, heads side by side, as the output projection reads it; float32."""
        with _without_autocast(self.q):
            return (self.rows() @ self._spread(self.v).float()).transpose(1, 2).flatten(2)

    def last_bits(self) -> float:
        """Return the tolerance between weights of two float32 computations: four last bits of the largest logit."""
        largest = self.q.float().norm(dim=-1).max() * self.k.float().norm(dim=-1).max() * abs(self.scale)
        return 4 * torch.finfo(torch.float32).eps * float(largest)

    def _spread(self, x: Tensor) -> Tensor:
        groups = self.q.shape[1] // x.shape[1]
        return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _without_autocast(x: Tensor) -> torch.autocast:
    """Disable autocast, which would compute products of float32 copies in half precision."""
    return torch.autocast(x.device.type, enabled=False)


@dataclass(kw_only=True, slots=True)
class Kept:
    """What a recorder has gathered, by block."""

    hidden: dict[int, Tensor] = field(default_factory=dict)
    norms: dict[int, Tensor] = field(default_factory=dict)
    qkv: dict[int, QKV] = field(default_factory=dict)
    projected: dict[int, QKV] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, tuple[int, ...]] = field(default_factory=dict)
    read: dict[int, ReadRows] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)  # written by an edit: q and k no longer tell
    entering: dict[int, TokenLayout] = field(default_factory=dict)  # layout of a block's input tokens
    layouts: dict[int, TokenLayout] = field(default_factory=dict)
    input: Tensor | None = None
    patch_embeddings: Tensor | None = None
    entering_norms: Tensor | None = None


class Trace:
    """The captured values of one forward pass. Holds tensors only; all hooks are already removed."""

    def __init__(self, final: Tokens, depth: int, kept: Kept) -> None:
        self.final = final
        self.layout = final.layout  # of the final tokens; blocks may have others (`layout_before`, `layout_after`)
        self.depth = depth
        self._kept = kept

    def __repr__(self) -> str:
        kept = self._kept
        named = {
            "hidden": kept.hidden,
            "norms": kept.norms,
            "qkv": kept.qkv,
            "projected": kept.projected,
            "rows": kept.rows,
        }
        words = [f"{name} of {_blocks(found, self.depth)}" for name, found in named.items() if found]
        words += ["patch embeddings"] if kept.patch_embeddings is not None else []
        return f"Trace({self.final!r}, {', '.join(words) or 'nothing else kept'})"

    @property
    def patch_embeddings(self) -> Float[Tensor, "B P D"]:
        """Patches right after their projection, before positions (the paper, Fig. 5a)."""
        if self._kept.patch_embeddings is None:
            raise ValueError("patch embeddings were not kept; trace with Capture(patch_embeddings=True)")
        return self._kept.patch_embeddings

    @property
    def input(self) -> Float[Tensor, "B N D"]:
        """Return the tokens that entered block 0."""
        if self._kept.input is None:
            raise ValueError("the input of block 0 was not kept; trace with Capture(input=True)")
        return self._kept.input

    def layout_before(self, layer: int) -> TokenLayout:
        """Return the layout of a block's input tokens, over which its attention runs."""
        return self._kept.entering[resolve_layer(layer, self.depth)]

    def layout_after(self, layer: int) -> TokenLayout:
        """Return the layout of a block's output."""
        return self._kept.layouts[resolve_layer(layer, self.depth)]

    def mlp(self, layer: int) -> Float[Tensor, "B N hidden"]:
        """Return the input of the last projection of a block's MLP."""
        return self._get("mlp", self._kept.mlp, layer)

    @property
    def entering_norms(self) -> Float[Tensor, "B N"] | None:
        """L2 norm of every token entering block 0, float32; kept with any norms. None if the library hides it."""
        return self._kept.entering_norms

    def hidden(self, layer: int) -> Float[Tensor, "B N D"]:
        """Return the output of a block, before the final norm."""
        return self._get("hidden", self._kept.hidden, layer)

    def norms(self, layer: int) -> Float[Tensor, "B N"]:
        """Return the L2 norm of every token after a block, before the final norm, in float32."""
        index = resolve_layer(layer, self.depth)
        if index not in self._kept.norms and index in self._kept.hidden:
            return token_norms(self._kept.hidden[index])
        return self._get("norms", self._kept.norms, layer)

    def qkv(self, layer: int) -> QKV:
        """Return q, k, v as attention saw them: after qk-norm and rotary embedding, [B, heads, N, d]."""
        return self._get("qkv", self._kept.qkv, layer)

    def projected_qkv(self, layer: int) -> QKV:
        """Return q, k, v as the projection wrote them: before qk-norm and rotary embedding, [B, heads, N, d]."""
        return self._get("projected", self._kept.projected, layer)

    def attention(self, layer: int, queries: Sequence[int]) -> Float[Tensor, "B heads Q N"]:
        """Return softmax attention from some tokens to all, in float32, from kept rows or kept q, k, v.

        Where keys belong to no token (softmax-off-by-one, or an edit added them), rows sum to less than 1: the rest is
        `extra_attention`.
        """
        rows = self._rows(layer, queries)
        return rows[..., : self._tokens_in(layer)]

    def extra_attention(self, layer: int, queries: Sequence[int]) -> Float[Tensor, "B heads Q E"]:
        """Return softmax attention to the E keys that belong to no token: those of the model first, then those of edits."""
        return self._rows(layer, queries)[..., self._tokens_in(layer) :]

    def read_rows(self, layer: int) -> ReadRows:
        """Return what the queries of the kept rows look at and read; kept with `Capture(rows=..., read=...)`."""
        return self._get("read", self._kept.read, layer)

    def only_attention(self, kept: Callable[[Tensor], Tensor]) -> Trace:
        """Return a trace of q, k, v, projections and weights alone, each tensor of them as `kept` returns it."""
        own = self._kept

        def of(found: Mapping[int, QKV]) -> dict[int, QKV]:
            return {n: replace(each, q=kept(each.q), k=kept(each.k), v=kept(each.v)) for n, each in found.items()}

        less = Kept(
            qkv=of(own.qkv), projected=of(own.projected), weights={n: kept(each) for n, each in own.weights.items()},
            entering=own.entering, layouts=own.layouts,
        )  # fmt: skip
        return Trace(Tokens(self.final.values[:0], self.layout), self.depth, less)

    def _tokens_in(self, layer: int) -> int:
        return self.layout_before(layer).length

    def _rows(self, layer: int, queries: Sequence[int]) -> Float[Tensor, "B heads Q M"]:
        index = resolve_layer(layer, self.depth)
        kept = self._kept.queries.get(index, ())
        if all(query in kept for query in queries) and index in self._kept.rows:
            rows = self._kept.rows[index]
            return rows if tuple(queries) == tuple(kept) else rows[:, :, [kept.index(query) for query in queries]]
        if index in self._kept.weights:
            return self._kept.weights[index][:, :, list(queries)]
        if index in self._kept.qkv:
            return self._kept.qkv[index].rows(queries)
        raise ValueError(
            f"attention of tokens {list(queries)} in block {index} was not kept; trace with "
            f"Capture(rows={{{index}: {list(queries)}}}) or Capture(qkv=[{index}])"
        )

    def _get(self, name: str, kept: Mapping[int, T], layer: int) -> T:
        index = resolve_layer(layer, self.depth)
        if index not in kept:
            what = "rows=..., read=..." if name == "read" else f"{name}=[{index}]"
            raise ValueError(f"{name} of block {index} was not kept; trace with Capture({what})")
        return kept[index]


def _blocks(found: Iterable[int], depth: int) -> str:
    blocks = sorted(found)
    if len(blocks) == depth:
        return f"all {depth} blocks"
    return f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, blocks))}"


def token_norms(hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """L2 norm of every token in float32, for tokens of any size and dtype.

    In float32 the sum of squares overflows for norms above 1e19 and loses digits below 1e-19; those are computed in
    float64. CUDA always uses float64: checking first would make the CPU wait for every block.
    """
    if hidden.dtype == torch.float64 or hidden.device.type == "cuda":
        return torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float64).float()
    if hidden.device.type == "cpu" and hidden.dtype != torch.float32 and len(hidden):
        # An image at a time its float32 copy stays in the cache: less than half the time of a whole batch.
        norms = torch.stack([torch.linalg.vector_norm(image, dim=-1, dtype=torch.float32) for image in hidden])
    else:
        norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    if hidden.device.type == "cpu" and norms.numel() and not 1e-15 < norms.min() <= norms.max() < 1e18:
        return torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float64).float()
    return norms


def _resolve(layers: Layers, depth: int) -> frozenset[int]:
    if isinstance(layers, str):
        if layers != "all":
            raise UserError(f"layers are 'all' or block indices, not '{layers}'.")
        return frozenset(range(depth))
    return frozenset(resolve_layer(layer, depth) for layer in layers)
