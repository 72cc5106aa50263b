"""Conformance checks of editing: at every site a value is replaced, read back, and affects the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.sites import IN_BLOCKS, Site
from vitreg.backbones.trace import QKV, Capture, Trace
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout


def editing_checks(backbone: Backbone, images: Float[Tensor, "3 3 H W"]) -> dict[str, Callable[[], str | None]]:
    """Return a check for every site, and one for added tokens; each returns why it does not apply, or None."""
    return {
        "write image": lambda: _site(backbone, images, "image", lambda x: x * 0.5),
        "write input": lambda: _site(backbone, images, "input", lambda x: x * 0.5),
        "write attention": lambda: _attention(backbone, images),
        "write weights": lambda: _weights(backbone, images),
        "write mlp": lambda: _mlp(backbone, images),
        "write block": lambda: _site(backbone, images, "block", lambda x: x * 0.5),
        "write forward": lambda: _forward(backbone, images),
        "added tokens": lambda: _added(backbone, images),
        "added keys": lambda: _added_keys(backbone, images),
    }


def _layer(backbone: Backbone, site: Site) -> int | None:
    return backbone.depth // 2 if site in IN_BLOCKS else None


def _edited(backbone: Backbone, images: Tensor, site: Site, change: Callable[[Any], Any], **capture: Any) -> Trace:
    edit = Edit(site, _layer(backbone, site), lambda value, _place: change(value))
    return backbone.trace(images, Capture(**capture), [edit])


def _site(backbone: Backbone, images: Tensor, site: Site, change: Callable[[Tensor], Tensor]) -> None:
    layer = _layer(backbone, site)
    layers = () if layer is None else (layer,)
    wanted: dict[str, Any] = {"hidden": layers if site == "block" else (), "mlp": layers if site == "mlp" else ()}
    wanted["input"] = site == "input"
    plain = backbone.trace(images, Capture(**wanted))
    same = _edited(backbone, images, site, torch.clone, **wanted)
    assert torch.equal(same.final.values, plain.final.values), f"writing the same {site} changes bits"
    edited = _edited(backbone, images, site, change, **wanted)
    if site != "image":
        before, after = (_value(trace, site, layer) for trace in (plain, edited))
        assert torch.equal(after, change(before)), f"what was written at {site} is not what is read there"
    if site != "block" or layer != backbone.depth - 1:  # the final norm undoes a change of scale of the last block
        assert not torch.equal(edited.final.values, plain.final.values), f"what was written at {site} reaches no output"


def _value(trace: Trace, site: Site, layer: int | None) -> Tensor:
    if layer is None:
        return trace.input
    return trace.mlp(layer) if site == "mlp" else trace.hidden(layer)


def _mlp(backbone: Backbone, images: Tensor) -> str | None:
    if not backbone.anatomy.mlp:
        return "the last projection of its MLPs is not known"
    return _site(backbone, images, "mlp", lambda x: x * 0.5)


def _unwritable(backbone: Backbone) -> str:
    """Return why attention of this model cannot be edited; empty if it can."""
    status = backbone.attention_status()
    if status.source == "projections" and any(part.finish is None for part in backbone.anatomy.attention):
        return "softmax is written by hand, and more than a projection stands behind it"
    return status.reason


def _attention(backbone: Backbone, images: Tensor) -> str | None:
    if reason := _unwritable(backbone):
        return reason
    layer = backbone.depth // 2
    plain = backbone.trace(images, Capture(qkv=[layer]))
    same = _edited(backbone, images, "attention", replace, qkv=[layer])
    _near(backbone, same.final.values, plain.final.values, "writing the same q, k, v")
    edited = _edited(backbone, images, "attention", lambda qkv: replace(qkv, v=qkv.v * 0.5), qkv=[layer])
    assert torch.equal(edited.qkv(layer).v, plain.qkv(layer).v * 0.5), "the values written are not those that are read"
    assert not torch.equal(edited.final.values, plain.final.values), "values written in attention reach no output"
    return None


def _weights(backbone: Backbone, images: Tensor) -> str | None:
    if reason := _unwritable(backbone):
        return reason
    layer = backbone.depth // 2
    plain = backbone.trace(images, Capture(rows={layer: [0]}))
    same = _edited(backbone, images, "weights", torch.clone, rows={layer: [0]})
    _near(backbone, same.final.values, plain.final.values, "writing the same attention weights")
    even = _edited(backbone, images, "weights", lambda w: torch.full_like(w, 1 / w.shape[-1]), rows={layer: [0]})
    rows = even.attention(layer, [0])
    assert torch.equal(rows, torch.full_like(rows, 1 / (rows.shape[-1] + backbone.anatomy.extra_keys))), (
        "the weights written are not those that are read"
    )
    assert not torch.equal(even.final.values, plain.final.values), "attention weights that were written reach no output"
    return None


def _forward(backbone: Backbone, images: Tensor) -> None:
    def mean_of_two(given: Tensor, place: Place) -> Any:
        assert place.run is not None
        first, second = place.run(given), place.run(given)
        return replace(first, values=(first.values + second.values) / 2)

    edited = backbone.edited([Edit("forward", None, mean_of_two)], "twice")
    assert torch.equal(edited(images).values, backbone(images).values), "the mean of two equal runs is another run"


@dataclass(frozen=True)
class _Add:
    """One token before the patches, the mean of all."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        start = place.layout.first_patch
        return torch.cat([tokens[:, :start], tokens.mean(1, keepdim=True), tokens[:, start:]], 1)

    def layout(self, before: TokenLayout) -> TokenLayout:
        return before.with_registers(1)


@dataclass(frozen=True)
class _Drop:
    """The token is taken out again."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        start = place.layout.first_patch
        return torch.cat([tokens[:, : start - 1], tokens[:, start:]], 1)

    def layout(self, before: TokenLayout) -> TokenLayout:
        return before.with_registers(-1)


def _added(backbone: Backbone, images: Tensor) -> str | None:
    edits = [Edit("input", None, _Add()), Edit("block", -1, _Drop())]
    if not backbone.anatomy.resizable:
        try:
            backbone.trace(images, Capture(), edits)
        except UserError as error:
            return str(error)
        raise AssertionError("a model whose position bias is tied to its tokens takes one more")
    plain = backbone.trace(images, Capture(hidden="all"))
    if any(plain.layout_before(layer) != plain.layout_after(layer) for layer in range(backbone.depth)):
        try:
            backbone.trace(images, Capture(), edits)
        except UserError as error:
            return str(error)
        raise AssertionError("a model that drops tokens itself takes one more before it does")
    trace = backbone.trace(images, Capture(hidden="all"), edits)
    assert trace.layout == plain.layout, "a token that was added and taken out again is still in the layout"
    assert trace.final.values.shape == plain.final.values.shape
    for layer in range(backbone.depth - 1):
        layout = trace.layout_after(layer)
        assert len(layout.registers) == len(plain.layout.registers) + 1
        assert trace.hidden(layer).shape[1] == layout.length == plain.layout.length + 1
    assert torch.isfinite(trace.final.values).all()
    if backbone.depth > 1:
        assert not torch.equal(trace.final.values, plain.final.values), "no token looked at the one that was added"
    return None


def _added_keys(backbone: Backbone, images: Tensor) -> str | None:
    if reason := _unwritable(backbone):
        return reason
    layer = backbone.depth // 2

    def with_key(qkv: QKV) -> QKV:
        return qkv.with_keys(torch.zeros_like(qkv.k[:, :, :1]), torch.zeros_like(qkv.v[:, :, :1]))

    trace = _edited(backbone, images, "attention", with_key, qkv=[layer], rows={layer: [0]})
    inside, outside = trace.attention(layer, [0]), trace.extra_attention(layer, [0])
    assert inside.shape[-1] == trace.layout_before(layer).length
    assert outside.shape[-1] == backbone.anatomy.extra_keys + 1
    total = inside.sum(-1) + outside.sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-4), "attention to tokens and to the added key is not 1"

    def hidden_key(qkv: QKV) -> QKV:
        bias = torch.zeros(qkv.q.shape[2], qkv.k.shape[2] + 1, device=qkv.q.device)
        bias[:, -1] = -torch.inf
        return with_key(qkv).with_bias(bias)

    hidden = _edited(backbone, images, "attention", hidden_key)
    _near(backbone, hidden.final.values, backbone(images).values, "a key that nobody may look at")
    return None


def _near(backbone: Backbone, found: Tensor, wanted: Tensor, what: str) -> None:
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(backbone.dtype, 1e-4)
    error = float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-30))
    assert error <= tolerance, f"{what} moves the output by {error:.1e} of its largest value"
