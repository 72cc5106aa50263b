"""`Recorder`: during a traced forward, the hooks of `watch` call it at each step, and it keeps or edits the values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor

from vitreg.backbones.anatomy.parts import Anatomy, AttentionParts, substituted
from vitreg.backbones.edits import Editor, native_after
from vitreg.backbones.sites import Site, name_of
from vitreg.backbones.trace import QKV, Kept, ResolvedCapture, Trace, token_norms
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout, Tokens

Source = Literal["sdpa", "projections"]


class Recorder:
    """Gathers what a `ResolvedCapture` asks for while one forward runs, and writes what an `Editor` holds.

    Args:
        native: layouts of the tokens that enter block 0 and of those after each block; edits may change them.
        source: where q, k, v come from: the call to `scaled_dot_product_attention`, or the projections of models with a
            hand-written softmax.
        probing: only compare the recomputed with the actual attention output (`errors`); keep nothing.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        native: Sequence[TokenLayout],
        plan: ResolvedCapture,
        editor: Editor | None = None,
        source: Source = "sdpa",
        probing: bool = False,
    ) -> None:
        self.anatomy, self.plan, self.probing = anatomy, plan, probing
        self.native, self.layout = native, native[0]
        self.source: Source = source
        self.editor = Editor((), len(anatomy.blocks)) if editor is None else editor
        self.until_the_end = ExitStack()  # changes undone after the forward
        self.kept = Kept(queries=dict(plan.rows))
        self.calls: Counter[int] = Counter()  # attention calls over all tokens, by block
        self.mixed: dict[int, Tensor] = {}  # [B, N, heads * d] after attention, before the output projection
        self.mixed_dtype = torch.float32
        self.last_bits = 0.0  # tolerance of attention weights due to float32's rounding of the logits
        self.errors: dict[int, float] = {}  # of attention · v recomputed, relative to the largest value, by block
        self._runs: Counter[int] = Counter()
        self._current: int | None = None
        self._pending: dict[int, Tensor] = {}  # projections of the running block: slot -> output
        self._written: set[tuple[Site, int | None]] = {("forward", None), ("image", None)}  # done by the backbone

    @property
    def watches_functions(self) -> bool:
        """Whether hooks alone are not enough."""
        return bool(self.plan.attention or self.plan.projected or self.probing or self.editor.attention)

    def projection_weights(self) -> dict[int, tuple[int, int | None]]:
        """Map the identity of each weight to (block, slot); slot None marks the output projection."""
        found: dict[int, tuple[int, int | None]] = {}
        by_hand = self.plan.attention | self.editor.attention if self.source == "projections" else frozenset()
        wanted = self.plan.projected | by_hand
        for layer, parts in enumerate(self.anatomy.attention):
            if layer in wanted:
                found |= {id(weight): (layer, slot) for slot, weight in enumerate(parts.weights())}
            if self.probing:
                found[id(parts.output_weight())] = (layer, None)
        return found

    # Called by the hooks and the mode, in the order of events in a block.

    def enter(self, layer: int, given: Any) -> Any:
        """Block `layer` starts; returns its new input, or None to keep `given`."""
        self._current, edited = layer, None
        self._pending.clear()
        hidden = given[0] if isinstance(given, tuple | list) and len(given) == 1 else given
        if layer == 0 and isinstance(hidden, Tensor) and hidden.ndim == 3:
            edited = self._embedded(self._in_order(hidden))
        self.kept.entering[layer] = self.layout
        return None if edited is None else _with_first(given, self._in_order(edited))

    def _embedded(self, hidden: Tensor) -> Tensor | None:
        """Keep the tokens that enter block 0; return them if an edit changed them."""
        before = hidden
        hidden = self._write("input", hidden)
        if self.plan.input:
            self.kept.input = hidden
        if self.plan.norms:
            self.kept.entering_norms = token_norms(hidden) if hidden.shape[1] == self.layout.length else None
        return None if hidden is before else hidden

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

    def attention(self, qkv: QKV, compute: Callable[[], Tensor]) -> Tensor:
        """`scaled_dot_product_attention` was called; returns its result, which is `compute()` without edits."""
        layer, length = self._current, self.layout.length
        keys = length + self.anatomy.extra_keys
        if layer is None or qkv.q.ndim != 4 or qkv.q.shape[2] != length or qkv.k.shape[2] != keys:
            return compute()
        self.calls[layer] += 1
        edited = self._attend(layer, qkv) if self.source == "sdpa" else None
        output = compute() if edited is None else edited
        if self.probing:
            self.mixed[layer] = output.transpose(1, 2).flatten(2)
        return output

    def attended(self, layer: int, output: Any) -> Any:
        """The attention module of a block with a hand-written softmax is done; returns its output if edited."""
        parts, qkv = self.anatomy.attention[layer], self._projections(layer)
        edited = None if qkv is None else self._attend(layer, qkv)
        if edited is None:
            return None
        if parts.finish is None:
            raise UserError(
                f"the attention of block {layer} cannot be written: more than a projection stands behind it."
            )
        first = output[0] if isinstance(output, tuple | list) else output
        return _with_first(output, self._in_order(parts.finish(edited.transpose(1, 2).flatten(2).to(first.dtype))))

    def mlp(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The last projection of a block's MLP is about to run; returns its new input."""
        if layer != self._current:
            return None
        tokens = hidden.unflatten(0, (-1, self.layout.length)) if hidden.ndim == 2 else self._in_order(hidden)
        edited = self._write("mlp", tokens, layer)
        if layer in self.plan.mlp:
            self.kept.mlp[layer] = edited
        if edited is tokens:
            return None
        return edited.flatten(0, 1) if hidden.ndim == 2 else self._in_order(edited)

    def leave(self, layer: int, output: Any) -> Any:
        """Block `layer` is done; returns its output if an edit changed it, else None."""
        before = self._in_order(output[0] if isinstance(output, tuple | list) else output)  # [B, N, D]
        if self._pending:
            self._keep_projections(layer)
        self.layout = native_after(self.layout, self.native, layer)
        if before.shape[1] != self.layout.length:
            raise UserError(
                f"block {layer} puts out {before.shape[1]} tokens where its anatomy says "
                f"{self.layout.length}; mend Anatomy.layout, or Anatomy.layout_after if blocks drop tokens."
            )
        hidden = self._write("block", before, layer)
        if layer in self.plan.hidden:
            self.kept.hidden[layer] = hidden
        if layer in self.plan.norms:
            self.kept.norms[layer] = token_norms(hidden)
        if self.probing:
            self._compare(layer)
        self.kept.layouts[layer] = self.layout
        self._runs[layer] += 1
        self._current = None
        return None if hidden is before else _with_first(output, self._in_order(hidden))

    def patches(self, output: Tensor) -> None:
        """The patch projection ran."""
        self.kept.patch_embeddings = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output

    def refuse_lost_edits(self) -> None:
        """Refuse edits at sites that this forward did not reach. Raises UserError."""
        for site, layer in self.editor.places - self._written:
            raise UserError(f"{name_of(site, layer)} was not seen in this model, so it cannot be written.")

    def finish(self, final: Tensor) -> Trace:
        """Check that each requested value was seen exactly once, and return them.

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
        self.refuse_lost_edits()
        for layer in self.plan.mlp - self.kept.mlp.keys():
            raise UserError(f"{name_of('mlp', layer)} was not seen; its last projection is not known for this model.")
        if self.plan.input and self.kept.input is None:
            raise UserError("the input of block 0 was not seen: this model does not hand it over as a tensor.")
        for layer in self.plan.projected:
            if layer not in self.kept.projected:
                raise UserError(
                    f"the q, k, v projections of block {layer} were not seen; they are not known for this model."
                    if self.anatomy.heads is not None
                    else f"this {type(self.anatomy.tower).__name__} has no attention, so there are no q, k, v to read; "
                    "ask for the output of its blocks."
                )
        return Trace(Tokens(final, self.layout), depth, self.kept)

    def _write(self, site: Site, value: Any, layer: int | None = None) -> Any:
        """Apply the edits of a site, and update the layout."""
        if not self.editor.edits(site, layer):
            return value
        self._written.add((site, layer))
        value, layout = self.editor.apply(site, value, self.layout, layer)
        added = layout.first_patch - self.layout.first_patch
        if layout.length != self.layout.length and not self.anatomy.resizable:
            raise UserError(
                f"this {type(self.anatomy.tower).__name__} takes no other tokens than its own: its position bias is tied "
                "to their number."
            )
        if added:  # modules that count the tokens before the patches need the new count
            self.until_the_end.enter_context(
                substituted(
                    *((module, name, getattr(module, name) + added) for module, name in self.anatomy.prefix_counts)
                )
            )
        self.layout = layout
        return value

    def _attend(self, layer: int, qkv: QKV) -> Tensor | None:
        """Keep the inputs of attention; returns attention · v [B, heads, N, d] if edits changed it."""
        edited = self._write("attention", qkv, layer)
        weights: Tensor | None = None
        if self.editor.edits("weights", layer):
            before = edited.rows()
            after = self._write("weights", before, layer)
            weights = None if after is before else after
        if layer in self.plan.qkv:
            self.kept.qkv[layer] = edited
            if weights is not None:
                self.kept.weights[layer] = weights
        if layer in self.plan.rows:
            queries = self.plan.rows[layer]
            rows = edited.rows(queries) if weights is None else weights[:, :, list(queries)]
            self.kept.rows[layer] = rows
            if self.plan.read is not None:
                self.kept.read[layer] = edited.read_by(rows, self.plan.read(rows))
        return None if edited is qkv and weights is None else edited.attend(weights)

    def _projections(self, layer: int) -> QKV | None:
        """Return q, k, v from the projections of the running block, None if they are incomplete or misshapen."""
        parts = self.anatomy.attention[layer]
        found = [self._batch_first(parts, self._pending[slot]) for slot in sorted(self._pending)]
        outputs = [output for output in found if output is not None]
        if len(outputs) == 1:  # fused: (3, heads, d)
            q, k, v = outputs[0].unflatten(2, (3, parts.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, d]
        elif len(outputs) == 3:
            d = outputs[0].shape[2] // parts.heads
            q, k, v = (output.unflatten(2, (-1, d)).transpose(1, 2) for output in outputs)
        else:
            return None
        return QKV(q, k, v, parts.scale if parts.scale is not None else q.shape[-1] ** -0.5)

    def _keep_projections(self, layer: int) -> None:
        qkv = self._projections(layer)
        self._pending.clear()
        if qkv is None:
            return
        if layer in self.plan.projected:
            self.kept.projected[layer] = qkv
        if self.source == "projections" and layer in self.plan.attention and layer not in self.editor.attention:
            self._attend(layer, qkv)

    def _in_order(self, hidden: Tensor) -> Tensor:
        """Swap [N, B, D] of sequence-first models and [B, N, D]."""
        return hidden.transpose(0, 1) if self.anatomy.sequence_first else hidden

    def _compare(self, layer: int) -> None:
        """Compare attention · v with the recomputed one, then free both: all blocks together would need too much
        memory."""
        seen, projected = self.kept.qkv.pop(layer, None), self.kept.projected.pop(layer, None)
        mixed, qkv = self.mixed.pop(layer, None), projected if seen is None else seen
        if mixed is not None and qkv is not None:
            self.mixed_dtype = mixed.dtype
            self.last_bits = max(self.last_bits, qkv.last_bits())
            self.errors[layer] = _relative(qkv.mixed(), mixed)

    def _batch_first(self, parts: AttentionParts, x: Tensor) -> Tensor | None:
        """Undo flattened or swapped axes of some attention modules: -> [B, N, width], None for other lengths."""
        length = self.layout.length
        if x.ndim == 2 and x.shape[0] % length == 0:
            x = x.unflatten(0, (length, -1) if parts.sequence_first else (-1, length))
        if x.ndim != 3 or x.shape[0 if parts.sequence_first else 1] != length:
            return None
        return x.transpose(0, 1) if parts.sequence_first else x


def _with_first(output: Any, first: Tensor) -> Any:
    """Return a module's output with its first value replaced: a tensor, or a tuple or list that starts with one."""
    return type(output)([first, *output[1:]]) if isinstance(output, tuple | list) else first


def _relative(found: Tensor, truth: Tensor) -> float:
    if found.shape != truth.shape:
        return float("inf")
    truth = truth.float()
    return float((found - truth).abs().max() / truth.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
