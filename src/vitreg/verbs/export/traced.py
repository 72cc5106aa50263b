"""Any model, edited or not, as a module of which a graph can be made: images -> final tokens, and the model's own output.

Two things stand in the way of a graph. Position tables are resampled while a model runs, which ONNX cannot do
antialiased; they do not depend on the images, so their values are recorded and stand in the graph as constants. And
tokens that a repair adds leave before other code sees them; they are read before that, so that registers stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.edited_module import edited_copy
from vitreg.backbones.edits import Edit, Editor, EditSet, Place
from vitreg.backbones.recorder import Source
from vitreg.errors import UserError
from vitreg.repair.logits import classifies
from vitreg.tokens import Tokens

TOKENS, POOLED, LOGITS = "tokens", "pooled", "logits"


class Traced(nn.Module):
    """A backbone as a plain module: images [B, C, H, W] of one size -> tokens [B, N, D], registers included, and the
    model's own output [B, K].

    Args:
        backbone: in float32 on the CPU.
        images: of that size; they run once.
    Raises:
        UserError: for a model whose attention is edited and cannot be read, or that does not take the size.
    """

    def __init__(self, backbone: Backbone, images: Float[Tensor, "B C H W"]) -> None:
        super().__init__()
        self._layout = backbone.layout((images.shape[-2], images.shape[-1]))
        own = own_name(backbone, images)
        self.names = [TOKENS, *([] if own is None else [own])]
        sets, whole = backbone.edit_sets, [_at(each, "forward") for each in backbone.edit_sets]
        self._around = Editor(whole, backbone.depth)
        inside = [EditSet(tuple(edit for edit in each.edits if edit.site != "forward"), each.name) for each in sets]
        module = backbone.original
        if own is None:
            module = _Encoder(module)
        else:
            leaving = [EditSet(each.leaving, each.name) for each in sets]
            inside = [*inside, EditSet((Edit("block", -1, self._keep),), "kept"), *leaving]
        self.inner = edited_copy(module, inside, _source(backbone)).eval()
        self._final_norm = find_anatomy(self.inner).final_norm
        self._kept: Tensor | None = None
        self._tables = _Tables()
        with torch.no_grad(), self._tables.recording():
            self._run(images)

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return the tokens, and the model's own output where it has one."""
        with self._tables.replaying():
            return self._run(images)

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        if len(self.names) == 1:
            return (self._around.around(self._encoded, lambda _: self._layout)(images).values,)
        found = own_output(self.inner(images))
        hidden, self._kept = self._kept, None
        assert hidden is not None, "the last block runs"
        assert found is not None, "the output was seen before"
        return self._final_norm(hidden), found

    def _encoded(self, images: Tensor) -> Tokens:
        return Tokens(self.inner(images), self._layout)

    def _keep(self, hidden: Tensor, _place: Place) -> Tensor:
        self._kept = hidden
        return hidden


class _Encoder(nn.Module):
    """A model that returns its final tokens, at any size it takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """Return them."""
        return find_anatomy(self.module).encode(images)


def own_name(backbone: Backbone, images: Tensor) -> str | None:
    """Return what the model's own output is: "logits", "pooled", or None if it returns no such rows for these images."""
    try:
        module = backbone.module
        with torch.no_grad():
            found = own_output(module(images))
    except (UserError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError):
        return None  # an edit of the whole call, a model of image and text, or a module that takes one size only
    if found is None:
        return None
    return LOGITS if classifies(Backbone(backbone.original), images[:1]) else POOLED


def own_output(returned: Any) -> Float[Tensor, "B K"] | None:
    """Return the rows that a module answers with: its logits or its pooled feature."""
    for name in ("logits", "pooler_output"):
        returned = getattr(returned, name, returned)
    return returned if isinstance(returned, Tensor) and returned.ndim == 2 else None


def _at(each: EditSet, site: str) -> EditSet:
    return EditSet(tuple(edit for edit in each.edits if edit.site == site), each.name)


def _source(backbone: Backbone) -> Source:
    """How attention is read where it is edited. Raises UserError where it cannot be."""
    if not Editor(backbone.edit_sets, backbone.depth).attention:
        return "sdpa"
    status = backbone.attention_status()
    if status.source == "none":
        raise UserError(status.reason)
    return status.source


class _Tables:
    """The position tables that `interpolate` makes in a forward, in order."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    def recording(self) -> TorchFunctionMode:
        """Keep them."""
        return _Interpolating(self._values, replay=False)

    def replaying(self) -> TorchFunctionMode:
        """Give them in place of resampling."""
        return _Interpolating(self._values, replay=True)


class _Interpolating(TorchFunctionMode):
    def __init__(self, values: list[Tensor], *, replay: bool) -> None:
        super().__init__()
        self._values, self._replay, self._seen = values, replay, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.interpolate:
            return func(*args, **(kwargs or {}))
        if self._replay:
            self._seen += 1
            return self._values[self._seen - 1]
        self._values.append(func(*args, **(kwargs or {})).clone())
        return self._values[-1]
