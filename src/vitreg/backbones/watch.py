"""The one mechanism that looks into a running ViT: block hooks and a torch function mode, alive only inside a `with`.

The mode sees what attention really computes with, `F.scaled_dot_product_attention` after qk-norm and rotary embedding,
and the projections by the identity of their weights, so that blocks which call `F.linear(x, qkv.weight, ...)` without
their module are seen too. Calls belong to the block that is running: counting them would be wrong, since pooling heads
attend as well.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitreg.backbones.anatomy_parts import Anatomy, AttentionParts
from vitreg.backbones.fast_linear import attention_body, faster_linear
from vitreg.backbones.trace import QKV, Edit, Kept, Plan, Trace, resolve_layer, token_norms
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout, Tokens

Source = Literal["sdpa", "projections"]


class Recorder:
    """Gathers what a `Plan` asks for while one forward runs.

    Args:
        source: where q, k, v of attention come from: the call to `scaled_dot_product_attention`, or the projections of
            models that write softmax by hand.
        probing: only compare what is read with what the attention really put out (`errors`); nothing is kept.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        layout: TokenLayout,
        plan: Plan,
        edits: Sequence[Edit] = (),
        source: Source = "sdpa",
        probing: bool = False,
    ) -> None:
        self.anatomy, self.layout, self.plan, self.source, self.probing = anatomy, layout, plan, source, probing
        self.kept = Kept(queries=dict(plan.rows))
        self.calls: Counter[int] = Counter()  # attention calls over all tokens, by block
        self.mixed: dict[int, Tensor] = {}  # [B, N, heads * d] after attention, before the output projection
        self.mixed_dtype = torch.float32
        self.last_bits = 0.0  # what attention weights may differ by for float32's rounding of the logits
        self.errors: dict[int, float] = {}  # of attention · v recomputed, relative to the largest value, by block
        self._runs: Counter[int] = Counter()
        self._current: int | None = None
        self._pending: dict[int, Tensor] = {}  # projections of the running block: slot -> output
        self._edits: dict[int, list[Edit]] = defaultdict(list)
        for edit in edits:
            self._edits[resolve_layer(edit.layer, len(anatomy.blocks))].append(edit)

    @property
    def watches_functions(self) -> bool:
        """Whether hooks alone are not enough."""
        return bool(self.plan.attention or self.plan.projected or self.probing)

    def projection_weights(self) -> dict[int, tuple[int, int | None]]:
        """Map the identity of each weight to (block, slot); slot None marks the output projection."""
        found: dict[int, tuple[int, int | None]] = {}
        wanted = self.plan.projected | (self.plan.attention if self.source == "projections" else frozenset())
        for layer, parts in enumerate(self.anatomy.attention):
            if layer in wanted:
                found |= {id(weight): (layer, slot) for slot, weight in enumerate(parts.weights())}
            if self.probing:
                found[id(parts.output_weight())] = (layer, None)
        return found

    # Called by the hooks and the mode, in the order in which things happen in a block.

    def enter(self, layer: int, inputs: tuple[Any, ...]) -> None:
        """Block `layer` starts."""
        self._current = layer
        if layer == 0 and self.plan.norms and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 3:
            hidden = inputs[0].transpose(0, 1) if self.anatomy.sequence_first else inputs[0]
            self.kept.entering_norms = token_norms(hidden) if hidden.shape[1] == self.layout.length else None
        self._pending.clear()

    def projection(self, layer: int, slot: int | None, given: Tensor, output: Tensor) -> None:
        """A known weight was multiplied."""
        if layer != self._current:
            return
        if slot is not None:
            self._pending[slot] = output
        elif layer not in self.mixed:
            mixed = self._batch_first(self.anatomy.attention[layer], given)
            if mixed is not None:
                self.mixed[layer] = mixed

    def attention(self, qkv: QKV, output: Tensor) -> None:
        """`scaled_dot_product_attention` was called."""
        layer, length = self._current, self.layout.length
        if layer is None or qkv.q.ndim != 4 or qkv.q.shape[2] != length or qkv.k.shape[2] != length:
            return
        self.calls[layer] += 1
        if self.source == "sdpa" and layer in self.plan.attention:
            self._keep_attention(layer, qkv)
        if self.probing:
            self.mixed[layer] = output.transpose(1, 2).flatten(2)

    def leave(self, layer: int, output: Any) -> Any:
        """Block `layer` is done; returns its output where an edit changed it, else None."""
        hidden = output[0] if isinstance(output, (tuple, list)) else output
        hidden = hidden.transpose(0, 1) if self.anatomy.sequence_first else hidden  # [B, N, D]
        edits = self._edits.get(layer, ())
        for edit in edits:
            hidden = edit.function(hidden, self.layout)
        if layer in self.plan.hidden:
            self.kept.hidden[layer] = hidden
        if layer in self.plan.norms:
            self.kept.norms[layer] = token_norms(hidden)
        if self._pending:
            self._keep_projections(layer)
        if self.probing:
            self._compare(layer)
        self._runs[layer] += 1
        self._current = None
        if not edits:
            return None
        hidden = hidden.transpose(0, 1) if self.anatomy.sequence_first else hidden
        return type(output)([hidden, *output[1:]]) if isinstance(output, (tuple, list)) else hidden

    def patches(self, output: Tensor) -> None:
        """The patch projection ran."""
        self.kept.patch_embeddings = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output

    def finish(self, final: Tensor) -> Trace:
        """Check that what was asked for was seen exactly once, and hand it over.

        Raises:
            UserError: if a block did not run once, or its attention could not be read in this forward.
        """
        depth = len(self.anatomy.blocks)
        for layer in range(depth):
            if self._runs[layer] != 1:
                raise UserError(
                    f"block {layer} ran {self._runs[layer]} times in one forward; its outputs are ambiguous."
                )
        if self.source == "sdpa":
            for layer in self.plan.attention:
                if self.calls[layer] != 1:
                    raise UserError(
                        f"block {layer} made {self.calls[layer]} attention calls over all {self.layout.length} tokens "
                        "where one was expected, so its attention cannot be read; norms and hidden states still can."
                    )
        for layer in self.plan.projected:
            if layer not in self.kept.projected:
                raise UserError(
                    f"the q, k, v projections of block {layer} were not seen; they are not known for this model."
                )
        return Trace(Tokens(final, self.layout), depth, self.kept)

    def _keep_attention(self, layer: int, qkv: QKV) -> None:
        if layer in self.plan.qkv:
            self.kept.qkv[layer] = qkv
        if layer in self.plan.rows:
            self.kept.rows[layer] = qkv.rows(self.plan.rows[layer])

    def _keep_projections(self, layer: int) -> None:
        parts = self.anatomy.attention[layer]
        found = [self._batch_first(parts, self._pending[slot]) for slot in sorted(self._pending)]
        outputs = [output for output in found if output is not None]
        self._pending.clear()
        if len(outputs) == 1:  # fused: (3, heads, d)
            q, k, v = outputs[0].unflatten(2, (3, parts.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, d]
        elif len(outputs) == 3:
            d = outputs[0].shape[2] // parts.heads
            q, k, v = (output.unflatten(2, (-1, d)).transpose(1, 2) for output in outputs)
        else:
            return
        qkv = QKV(q, k, v, parts.scale if parts.scale is not None else q.shape[-1] ** -0.5)
        if layer in self.plan.projected:
            self.kept.projected[layer] = qkv
        if self.source == "projections" and layer in self.plan.attention:
            self._keep_attention(layer, qkv)

    def _compare(self, layer: int) -> None:
        """Recompute attention · v from what was read, and let go of both: those of all blocks are too much to hold."""
        seen, projected = self.kept.qkv.pop(layer, None), self.kept.projected.pop(layer, None)
        mixed, qkv = self.mixed.pop(layer, None), projected if seen is None else seen
        if mixed is not None and qkv is not None:
            self.mixed_dtype = mixed.dtype
            self.last_bits = max(self.last_bits, qkv.last_bits())
            self.errors[layer] = _relative(qkv.mixed(), mixed)

    def _batch_first(self, parts: AttentionParts, x: Tensor) -> Tensor | None:
        """Undo the flattening and the order of axes some attentions use: -> [B, N, width], None for other lengths."""
        length = self.layout.length
        if x.ndim == 2 and x.shape[0] % length == 0:
            x = x.unflatten(0, (length, -1) if parts.sequence_first else (-1, length))
        if x.ndim != 3 or x.shape[0 if parts.sequence_first else 1] != length:
            return None
        return x.transpose(0, 1) if parts.sequence_first else x


def _relative(found: Tensor, truth: Tensor) -> float:
    if found.shape != truth.shape:
        return float("inf")
    truth = truth.float()
    return float((found - truth).abs().max() / truth.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


@contextmanager
def watching(recorder: Recorder) -> Iterator[None]:
    """Attach a recorder to its model for the length of a `with`; everything is taken off again, also after an error.

    A compiled model runs uncompiled meanwhile: with the hooks it would be compiled anew for every block.
    """
    handles = []
    compiled = "torch._dynamo" in sys.modules
    eagerly = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    mode = _Watch(recorder) if recorder.watches_functions else nullcontext()
    try:
        for layer, block in enumerate(recorder.anatomy.blocks):
            handles.append(block.register_forward_pre_hook(_entering(recorder, layer)))
            handles.append(block.register_forward_hook(_leaving(recorder, layer)))
        if recorder.plan.patch_embeddings:
            projection = recorder.anatomy.patch_projection
            handles.append(projection.register_forward_hook(_patches(recorder)))
        with eagerly, mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(recorder: Recorder, layer: int) -> Callable[..., None]:
    return lambda _module, inputs: recorder.enter(layer, inputs)


def _patches(recorder: Recorder) -> Callable[..., None]:
    return lambda _module, _inputs, output: recorder.patches(output)


def _leaving(recorder: Recorder, layer: int) -> Callable[..., Any]:
    return lambda _module, _inputs, output: recorder.leave(layer, output)


class _Watch(TorchFunctionMode):
    """Sees every torch function the model calls; runs each exactly as it would have run."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._weights = recorder.projection_weights()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return attention_body(*args, **kwargs)
        output = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            known = self._weights.get(id(weight))
            if known is not None:
                self._recorder.projection(*known, args[0] if args else kwargs["input"], output)
        elif func is F.scaled_dot_product_attention:
            self._recorder.attention(_qkv(*args, **kwargs), output)
        return output


def _qkv(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> QKV:
    """Read the arguments of `scaled_dot_product_attention`, under its own names."""
    return QKV(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale, attn_mask, is_causal)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run without gradients, in evaluation mode and without PyTorch's fused encoder path, which bypasses the mode.

    The path is off in traced and untraced runs alike, so that both give the same bits. Training flags are put back.
    """
    training = [child for child in module.modules() if child.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        for child in training:
            child.training = False
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), faster_linear(module):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for child in training:
            child.training = True
