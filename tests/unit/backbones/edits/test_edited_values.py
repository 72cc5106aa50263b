"""What is written at a site arrives there, and gradients go through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vitreg.backbones import Backbone, Capture, Edit, Place
from vitreg.backbones.sites import IN_BLOCKS, SITES
from vitreg.backbones.trace import QKV
from vitreg.models.vit import VisionTransformer


def test_the_mask_and_added_keys_do_what_attention_by_hand_does(vit, images) -> None:
    generator = torch.Generator().manual_seed(3)
    key, value = (torch.randn(1, 3, 2, 8, generator=generator).expand(2, -1, -1, -1) for _ in range(2))
    bias = torch.randn(2, 3, 19, 21, generator=generator)
    seen: dict[str, QKV] = {}

    def edit(qkv: QKV, _place: Place) -> QKV:
        seen["before"] = qkv
        return qkv.with_keys(key, value).with_bias(bias)

    trace = Backbone(vit).trace(images, Capture(qkv=[1], rows={1: list(range(19))}), [Edit("attention", 1, edit)])
    q, k, v = seen["before"].q, torch.cat([seen["before"].k, key], 2), torch.cat([seen["before"].v, value], 2)
    weights = (q.double() @ k.double().mT / 8**0.5 + bias.double()).softmax(-1)
    rows = torch.cat([trace.attention(1, list(range(19))), trace.extra_attention(1, list(range(19)))], -1)
    torch.testing.assert_close(rows.double(), weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trace.qkv(1).attend().double(), weights @ v.double(), rtol=1e-4, atol=1e-5)


def test_the_value_that_arrives_at_the_projection_is_that_of_the_edited_weights(vit, images) -> None:
    def only_cls(weights: Tensor, _place: Place) -> Tensor:
        return torch.zeros_like(weights).index_fill_(-1, torch.tensor([0]), 1.0)

    seen: list[Tensor] = []
    handle = vit.blocks[1].attn.proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    trace = Backbone(vit).trace(images, Capture(qkv=[1]), [Edit("weights", 1, only_cls)])
    handle.remove()
    cls_value = trace.qkv(1).v[:, :, :1].expand(-1, -1, 19, -1).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen[-1], cls_value)
    assert torch.equal(trace.attention(1, [5])[..., 0], torch.ones(2, 3, 1))


@pytest.mark.parametrize("site", SITES)
def test_gradients_at_every_site_are_those_of_finite_differences(site, images) -> None:
    torch.manual_seed(0)
    backbone = Backbone(VisionTransformer(32, 8, 24, 3, 3, registers=2).double())
    images, layer = images.double(), 1 if site in IN_BLOCKS else None
    projection = torch.randn(2, 19, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def change(value: Any, place: Place, by: Tensor) -> Any:
        if site == "forward":
            assert place.run is not None
            return place.run(value * by)
        if isinstance(value, QKV):
            return replace(value, k=value.k * by)
        return value * by.to(value.dtype) if site != "weights" else value ** by.to(value.dtype)

    def result(by: Tensor) -> Tensor:
        edit = Edit(site, layer, lambda value, place: change(value, place, by))
        return (backbone.edited([edit], "scaled")(images, grad=True).values * projection).sum()

    by, step = torch.tensor(0.9, dtype=torch.float64, requires_grad=True), 1e-3 if site == "weights" else 1e-5
    (gradient,) = torch.autograd.grad(result(by), by)
    slope = (result(by.detach() + step) - result(by.detach() - step)) / (2 * step)
    assert abs(float(gradient)) > 1e-6
    assert float(((gradient - slope) / slope).detach().abs()) < (
        1e-2 if site == "weights" else 1e-5
    )  # weights are float32


def test_gradients_are_kept_only_where_they_are_asked_for(vit, images) -> None:
    backbone = Backbone(vit)
    assert not backbone(images).values.requires_grad
    pictures = images.clone().requires_grad_()
    tokens, trace = backbone(pictures, grad=True), backbone.trace(pictures, Capture(hidden=[0]), grad=True)
    assert tokens.values.requires_grad
    (gradient,) = torch.autograd.grad(trace.hidden(0).sum(), pictures)
    assert gradient.abs().sum() > 0
