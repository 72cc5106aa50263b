"""Attention for training in bfloat16: values and gradients are as right as the fused kernel's, whatever the logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitreg.models.attend import attend_plainly
from vitreg.models.vit import VisionTransformer


def inputs(largest: float, kind: str) -> list[torch.Tensor]:
    """q, k, v and the gradient of the output, bfloat16."""
    generator = torch.Generator().manual_seed(int(largest))
    q, k, v, gradient = (torch.randn(2, 3, 65, 64, generator=generator) for _ in range(4))
    if kind == "spread":
        scale = largest / float((q @ k.mT).max() / 8)
        q, k = q * scale**0.5, k * scale**0.5
    else:  # all logits of a row near the peak, by an offset in k
        direction = F.normalize(torch.randn(64, generator=generator), dim=0)
        q, k = q + 8 * direction, 0.5 * k + largest * direction
    if kind == "outliers":
        v[:, :, 5::20] *= 100
    return [x.bfloat16() for x in (q, k, v, gradient)]


def pass_through(attend, q, k, v, gradient, mask=None):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    output = attend(*leaves, attn_mask=mask)
    output.backward(gradient)
    return {"output": output.detach(), **{name: x.grad for name, x in zip("qkv", leaves, strict=True)}}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["spread", "near the peak", "outliers"])
@pytest.mark.parametrize("largest", [5, 200, 500])
def test_values_and_gradients_are_as_right_as_the_fused_kernels(largest, kind, autocast, masked):
    given = inputs(largest, kind)
    mask = torch.ones(2, 1, 1, 65, dtype=torch.bool) if masked else None
    if mask is not None:
        mask[0, ..., 10:20] = False
    truth = pass_through(F.scaled_dot_product_attention, *(x.double() for x in given), mask=mask)
    fused = pass_through(F.scaled_dot_product_attention, *given, mask=mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = pass_through(attend_plainly, *given, mask=mask)
    for name, exact in truth.items():
        assert found[name].dtype == torch.bfloat16
        error, theirs = (float((x[name].double() - exact).norm() / exact.norm()) for x in (found, fused))
        assert error <= 1.5 * theirs, f"{name}: {error:.2%} against {theirs:.2%}"
    largest_error, theirs = (float((x["output"].double() - truth["output"]).abs().max()) for x in (found, fused))
    assert largest_error <= 1.5 * theirs


@pytest.mark.parametrize("largest", [1, 200])
def test_a_step_in_bfloat16_goes_where_one_in_float32_goes_with_logits_of_200(largest):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 64, 2, 1)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:64] *= 4
            block.attn.qkv.bias[:64] += 1.0
            block.attn.qkv.bias[64:128] += largest / 8  # q·k/8 grows by about `largest`
    images = torch.randn(4, 3, 32, 32)

    def gradient(enabled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            tokens = model.forward_features(images)
        (tokens.float() * torch.linspace(-1, 1, 64)).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    cosine = F.cosine_similarity(gradient(True), gradient(False), dim=0)
    assert cosine > 0.995
