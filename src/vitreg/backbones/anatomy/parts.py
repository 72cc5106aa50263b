"""`Anatomy`, the description of a foreign ViT by values and callables, and helpers for its builders.

One function per library fills it (`timm`, `transformers`, `others`, `hub` beside this file); other models need one made
by hand. Nothing here runs a model; `backbone.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.models.posembed import resample_positions
from vitreg.tokens import TokenLayout

Size = tuple[int, int]  # height, width in pixels, or rows, cols of a grid


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionParts:
    """The attention of one block: its projections of queries, keys and values, and the processing of its output.

    Args:
        module: the attention module; its output is a tensor [B, N, D] or a tuple that starts with it.
        weights: returns (fused qkv weight,) or (q, k, v weights); called at every trace because loading weights may
            replace parameters. Fused rows are ordered (3, heads, head dimension).
        heads: query heads.
        scale: factor on q·k; None means (head dimension) ** -0.5.
        output_weight: returns the weight of the output projection.
        finish: heads side by side [B, N, heads * d] -> output of `module`; None if there is more than a norm and a
            projection between them (gated attention).
        sequence_first: the projections run on [N, B, ...] (`nn.MultiheadAttention`, whatever its `batch_first`).
    """

    module: nn.Module
    weights: Callable[[], tuple[Tensor, ...]]
    heads: int
    scale: float | None
    output_weight: Callable[[], Tensor]
    finish: Callable[[Tensor], Tensor] | None
    sequence_first: bool = False


def _none() -> None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """The description of a foreign ViT. Sizes are (height, width) in pixels.

    Args:
        tower: the vision tower; equals the given module or lies inside it.
        blocks: transformer blocks in the order they run; each returns tokens, or a tuple or list that starts with them.
        final_norm: `final_norm(output of the last block) == encode(images)`; nn.Identity where a model has none.
        patch: height and width of a patch in pixels.
        native_size: image size the position table was built for.
        heads: attention heads of a block; None for a model without attention.
        width: D, the length of a token vector.
        layout: image size -> roles of the tokens that enter block 0.
        layout_after: (block, image size) -> roles of a block's output tokens, for models that drop or add some; None if
            all blocks have the same. Final tokens are those of the last block.
        encode: images [B, channels, H, W] of any size the model takes -> final tokens [B, N, D].
        patch_projection: outputs the patch embeddings before positions are added, [B, D, rows, cols] or [B, P, D].
        library: who wrote the model: timm, transformers, open_clip, torchvision, hub, vitreg or a name of your own.
        position_table: returns (rows of the patches [P, D], grid), or None for models without a learned table.
        register_parameter: returns the learned registers [R, D], or None.
        attention: one entry per block, or empty where the projections are not known (attention is then still read
            through `scaled_dot_product_attention`).
        mlp: the last projection of each block's MLP (fc2, w3, c_proj, down_proj), or empty where it is not known.
        prefix_counts: (module, attribute) that count the tokens before the patches, which a rotary embedding leaves alone.
        extra_keys: keys of no token that stand behind the tokens' in every block's attention (softmax-off-by-one has 1).
        resizable: False for models that take only `native_size`.
        sequence_first: blocks pass [N, B, D] to one another.
    """

    tower: nn.Module
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module
    patch: Size
    native_size: Size
    heads: int | None
    width: int
    layout: Callable[[Size], TokenLayout]
    layout_after: Callable[[int, Size], TokenLayout] | None = None
    encode: Callable[[Tensor], Tensor]
    patch_projection: nn.Module
    library: str = "own"
    position_table: Callable[[], tuple[Tensor, Size] | None] = _none
    register_parameter: Callable[[], Tensor | None] = _none
    attention: tuple[AttentionParts, ...] = ()
    mlp: tuple[nn.Module, ...] = ()
    prefix_counts: tuple[tuple[nn.Module, str], ...] = ()
    extra_keys: int = 0
    resizable: bool = True
    sequence_first: bool = False

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def layouts(self, image_size: Size) -> tuple[TokenLayout, ...]:
        """Return the roles of the tokens that enter block 0, and of each block's output."""
        first = self.layout(image_size)
        if self.layout_after is None:
            return (first,) * (self.depth + 1)
        return (first, *(self.layout_after(block, image_size) for block in range(self.depth)))

    @property
    def channels(self) -> int:
        """Input channels of the first layer, 3 if unknown."""
        first = next((m for m in self.patch_projection.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
        if isinstance(first, nn.Linear):  # of flattened patches
            return max(1, first.in_features // (self.patch[0] * self.patch[1]))
        # The projection of a hybrid reads feature maps of a convolutional stem, which comes first.
        stem = next((m for m in self.tower.modules() if isinstance(m, nn.Conv2d)), first)
        return 3 if stem is None else stem.in_channels


def pair(value: Any) -> Size:
    """Return (height, width) from one number or two."""
    if isinstance(value, (tuple, list)):
        height, width = value
        return int(height), int(width)
    return int(value), int(value)


def is_a(module: nn.Module, package: str, *names: str) -> bool:
    """Whether a base class has one of these names and is defined in `package`, without importing it."""
    return any(
        base.__name__ in names and (base.__module__ + ".").startswith(package + ".") for base in type(module).__mro__
    )


def parameter_name(tower: nn.Module, values: Tensor) -> str | None:
    """Return the name of the parameter that a tensor is or views, None for a buffer or a computed tensor."""
    place = values.untyped_storage().data_ptr()
    return next((n for n, p in tower.named_parameters() if p.untyped_storage().data_ptr() == place), None)


def prefixed_layout(
    patch: Size, *, cls_tokens: int = 0, registers: int = 0, other: int = 0, padded: bool = False
) -> Callable[[Size], TokenLayout]:
    """Build image size -> layout for the order [CLS, other, registers, patches].

    Args:
        padded: whether the model pads an incomplete last patch instead of dropping it.
    """
    rows, cols = patch

    def layout(image_size: Size) -> TokenLayout:
        height, width = image_size
        grid = (-(-height // rows), -(-width // cols)) if padded else (height // rows, width // cols)
        return TokenLayout.prefixed(grid, cls_tokens=cls_tokens, registers=registers, other=other)

    return layout


def resampled_table(table: Float[Tensor, "1 M D"], prefix: int, source: Size, target: Size) -> Float[Tensor, "1 M2 D"]:
    """Resample a position table, except its first `prefix` rows, which belong to tokens without a grid position."""
    if source == target:
        return table
    return torch.cat([table[:, :prefix], resample_positions(table[:, prefix:], source, target)], dim=1)


@contextmanager
def substituted(*changes: tuple[nn.Module, str, Any]) -> Generator[None, None, None]:
    """Replace (module, attribute, value) inside a `with`, and restore everything after it.

    Parameters, buffers, submodules, plain attributes and methods can be replaced; a plain tensor may stand in for a
    parameter. Not safe while another thread runs the same module.
    """
    undo: list[Callable[[], Any]] = []
    try:
        for module, name, value in changes:
            undo.append(_swap(module, name, value))
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


def _swap(module: nn.Module, name: str, value: Any) -> Callable[[], Any]:
    stores: tuple[Any, ...] = (module._parameters, module._buffers, module._modules, module.__dict__)
    for store in stores:
        if name in store:
            old, store[name] = store[name], value
            return partial(store.__setitem__, name, old)
    # A method: the instance attribute hides it until it is deleted again.
    module.__dict__[name] = value
    return lambda: module.__dict__.pop(name)


def attention_parts(attention: nn.Module | None) -> AttentionParts | None:
    """Read an attention module with conventional names of projections; None for any other.

    Knows `qkv` (timm, torch.hub, ours), `q_proj`/`k_proj`/`v_proj` (transformers 5, EVA), `in_proj_weight`
    (nn.MultiheadAttention, open_clip) and the output projections `proj`, `o_proj`, `out_proj`.
    """
    if attention is None:
        return None
    output = _first(attention, "proj", "o_proj", "out_proj")
    heads = _first(attention, "num_heads", "num_attention_heads")
    weights = _projection_weights(attention)
    if output is None or heads is None or weights is None:
        return None
    scale = _first(attention, "scale", "scaling")
    inner = _first(attention, "norm", "ln_inner")
    more = _first(attention, "gate", "head_scale", "sub_norm")
    return AttentionParts(
        module=attention,
        weights=weights,
        heads=int(heads),
        scale=float(scale) if isinstance(scale, (int, float)) else None,
        output_weight=lambda: output.weight,
        finish=None if more is not None else (output if inner is None else lambda mixed: output(inner(mixed))),
        sequence_first=isinstance(attention, nn.MultiheadAttention),
    )


def all_attention_parts(attentions: list[nn.Module | None]) -> tuple[AttentionParts, ...]:
    """Read every block's attention; empty if any is not understood."""
    parts = [attention_parts(attention) for attention in attentions]
    known = tuple(part for part in parts if part is not None)
    return known if len(known) == len(parts) else ()


def all_mlp_projections(blocks: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Find the last projection of every block's MLP by conventional names; empty if any is missing."""
    found = [_mlp_projection(block) for block in blocks]
    known = tuple(projection for projection in found if projection is not None)
    return known if len(known) == len(found) else ()


def _mlp_projection(block: Any) -> nn.Module | None:
    mlp = getattr(block, "mlp", None)
    if hasattr(block, "mlp_out_proj"):  # timm's parallel blocks: beside attention, without a module of its own
        return block.mlp_out_proj
    if isinstance(mlp, nn.Sequential) and not hasattr(mlp, "c_proj"):  # torchvision's has numbers, not names
        return next((layer for layer in reversed(mlp) if isinstance(layer, nn.Linear)), None)
    # transformers 4 has the MLP of ViT in two modules of the block; its attention has an `output` of its own.
    names = ("fc2", "w3", "c_proj", "down_proj", "weights_out")
    projection = _first(block.output, "dense") if mlp is None and hasattr(block, "output") else _first(mlp, *names)
    return projection if isinstance(projection, nn.Module) else None


def _projection_weights(attention: nn.Module) -> Callable[[], tuple[Tensor, ...]] | None:
    if isinstance(getattr(attention, "qkv", None), nn.Linear):
        return lambda: (attention.qkv.weight,)  # type: ignore[union-attr,return-value]
    if all(isinstance(getattr(attention, name, None), nn.Linear) for name in ("q_proj", "k_proj", "v_proj")):
        return lambda: (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)  # type: ignore[union-attr,return-value]
    if isinstance(getattr(attention, "in_proj_weight", None), Tensor):
        return lambda: (attention.in_proj_weight,)  # type: ignore[return-value]
    return None


def _first(module: Any, *names: str) -> Any:
    for name in names:
        value = getattr(module, name, None)
        if value is not None and not isinstance(value, nn.Identity):
            return value
    return None
