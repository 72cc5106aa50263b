"""oneDNN on a CPU: its linear layers compute what PyTorch's own do, and step aside where they do not apply."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.backbones import fast_linear
from vitreg.backbones.fast_linear import faster_linear
from vitreg.backbones.trace import QKV
from vitreg.machine import onednn

bf16 = torch.bfloat16


def with_logits_up_to(largest: float, kind: str, images: int = 1, tokens: int = 197) -> tuple[torch.Tensor, ...]:
    """q, k, v in bfloat16: logits spread over their range, or all near the peak by an offset in k; v may have outliers."""
    generator = torch.Generator().manual_seed(int(largest))
    q, k, v = (torch.randn(images, 3, tokens, 64, generator=generator) for _ in range(3))
    if kind == "spread":
        scale = largest / float((q @ k.mT).max() / 8)
        q, k = q * scale**0.5, k * scale**0.5
    else:
        direction = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
        q, k = q + 8 * direction, 0.5 * k + largest * direction
    if kind == "outliers":
        v[:, :, 5::40] *= 100
    q, k, v = q.to(bf16), k.to(bf16), v.to(bf16)
    reached = float((q.float() @ k.float().mT).max() / 8)
    assert largest * 0.95 < reached < largest * 1.6 + 40
    return q, k, v


def in_float64(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (q.double() @ k.double().mT * q.shape[-1] ** -0.5).softmax(-1)


@pytest.mark.parametrize("kind", ["spread", "near the peak", "outliers"])
@pytest.mark.parametrize("largest", [5, 50, 200, 500])
def test_attention_is_as_right_as_the_fused_kernel_whatever_the_logits(largest: int, kind: str) -> None:
    q, k, v = with_logits_up_to(largest, kind)
    truth = in_float64(q, k) @ v.double()
    fused = (F.scaled_dot_product_attention(q, k, v).double() - truth).abs()
    with torch.no_grad(), faster_linear(nn.Linear(2, 2, dtype=bf16)):
        error = (F.scaled_dot_product_attention(q, k, v).double() - truth).abs()
    assert error.square().mean() <= 1.5**2 * fused.square().mean()
    assert error.max() <= 1.5 * fused.max()


@pytest.mark.parametrize("kind", ["spread", "near the peak"])
@pytest.mark.parametrize("largest", [50, 200, 500])
def test_rows_are_those_of_float64_attention_whatever_the_logits(largest: int, kind: str) -> None:
    q, k, v = with_logits_up_to(largest, kind)
    rows = QKV(q, k, v, 64**-0.5).rows([0, 7, 196])
    assert float((rows.double() - in_float64(q, k)[:, :, [0, 7, 196]]).abs().max()) < 1e-3


@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (2, 1, 5, 24)])
def test_linear_layers_agree_with_pytorch_and_read_weights_as_they_are_now(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, dtype=bf16), torch.randn(*shape, dtype=bf16)
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    with torch.no_grad():
        for _ in range(2):
            truth = F.linear(x.double(), layer.weight.double(), layer.bias.double())
            with faster_linear(layer):
                found = layer(x)
                strided = layer(x.transpose(0, -2).contiguous().transpose(0, -2))
            torch.testing.assert_close(found.double(), truth, rtol=1e-2, atol=1e-2)
            assert torch.equal(strided, found)
            assert all(torch.equal(p, before[name]) for name, p in layer.state_dict().items())
            layer.weight.data.mul_(2)  # a change that bumps no version counter must count all the same
            before["weight"] = layer.weight.clone()


def test_without_the_private_function_and_for_other_inputs_pytorch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, dtype=bf16), torch.randn(3, 24, dtype=bf16)
    bare = nn.Linear(24, 10, bias=False, dtype=bf16)
    wide = nn.Linear(24, 10)
    with torch.no_grad():
        with faster_linear(layer):
            assert torch.equal(bare(x), F.linear(x, bare.weight))
            assert torch.equal(wide(x.float()), F.linear(x.float(), wide.weight, wide.bias))
            assert torch.equal(layer(x[0]), F.linear(x[0], layer.weight, layer.bias))
            assert layer(x[:0]).shape == (0, 10)
        monkeypatch.setattr(onednn, "linear", None)
        with faster_linear(layer):
            found = layer(x)
        assert torch.equal(found, F.linear(x, layer.weight, layer.bias))


needs_onednn = pytest.mark.skipif(onednn.linear is None, reason="this CPU or PyTorch has no such kernel")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose oneDNN for float32, whatever is faster here."""
    monkeypatch.setattr(fast_linear, "fp32_by_onednn", lambda: True)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (2, 1, 5, 24)])
def test_float32_and_its_gradients_are_those_of_float64(chosen: None, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(*shape, requires_grad=True)
    y, wide = x.detach().double().requires_grad_(), copy.deepcopy(layer).double()
    with faster_linear(layer):
        out = layer(x.transpose(0, -2).contiguous().transpose(0, -2))  # rows that do not follow each other
        assert "LinearWithGradients" in type(out.grad_fn).__name__
        out.square().sum().backward()
    truth = wide(y)
    truth.square().sum().backward()
    found = [out, x.grad, *(p.grad for p in layer.parameters())]
    wanted = [truth, y.grad, *(p.grad for p in wide.parameters())]
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_only_the_gradients_that_are_wanted_are_computed(chosen: None) -> None:
    layer, x = nn.Linear(24, 10), torch.randn(3, 24)
    layer.weight.requires_grad_(False)
    with faster_linear(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is None
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.full((10,), 3.0))


@needs_onednn
def test_gradients_of_gradients_and_torch_func_are_those_of_pytorch(chosen: None) -> None:
    """A recipe or a part of a user's own may penalise gradients, or map over a dimension."""
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10), torch.randn(3, 24)

    def penalty() -> list[torch.Tensor]:
        y = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(y).square().sum(), y, create_graph=True)
        return [first, *torch.autograd.grad(first.square().sum(), [layer.weight, layer.bias])]

    wanted, mapped = penalty(), torch.func.vmap(layer)(x[:, None])
    with faster_linear(layer):
        for one, other in zip([*penalty(), torch.func.vmap(layer)(x[:, None])], [*wanted, mapped], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_float32_stays_as_it_is_where_its_kernel_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_linear, "fp32_by_onednn", lambda: False)
    assert isinstance(faster_linear(nn.Linear(2, 2)), nullcontext)
