"""bfloat16 on a CPU: the faster forms compute what PyTorch's own do, and step aside where they do not apply."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.backbones import explicit
from vitreg.backbones.explicit import VARIANTS, faster_attention, fastest
from vitreg.backbones.trace import QKV

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
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_is_as_right_as_the_fused_kernel_whatever_the_logits(variant: str, largest: int, kind: str) -> None:
    q, k, v = with_logits_up_to(largest, kind)
    truth = in_float64(q, k) @ v.double()

    def error(found: torch.Tensor) -> float:
        return float((found.double() - truth).norm() / truth.norm())

    assert error(VARIANTS[variant](q, k, v, None)) <= 1.5 * error(F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("kind", ["spread", "near the peak"])
@pytest.mark.parametrize("largest", [50, 200, 500])
def test_rows_are_those_of_float64_attention_whatever_the_logits(largest: int, kind: str) -> None:
    q, k, v = with_logits_up_to(largest, kind)
    rows = QKV(q, k, v, 64**-0.5).rows([0, 7, 196])
    assert float((rows.double() - in_float64(q, k)[:, :, [0, 7, 196]]).abs().max()) < 1e-3


@pytest.mark.parametrize(("heads", "rows"), [(1, 1), (1, 3), (2, 7), (9, 7)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_takes_any_shape(monkeypatch: pytest.MonkeyPatch, variant: str, heads: int, rows: int) -> None:
    """A few logits at once, so that heads and rows are cut where they do not divide."""
    monkeypatch.setattr(explicit, "AT_ONCE", heads * rows * 11)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 7, 16), torch.randn(3, 2, 11, 16), torch.randn(3, 2, 11, 8)
    truth = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    found = VARIANTS[variant](q.to(bf16), k.to(bf16), v.to(bf16), 0.3)
    assert found.dtype == bf16
    torch.testing.assert_close(found.float(), truth, rtol=3e-2, atol=3e-2)


def test_another_variant_than_the_first_must_earn_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for fused, wanted in ((0.95, "in pieces"), (0.8, "fused"), (2.0, "in pieces")):
        found = {"in pieces": 1.0, "fused": fused, "fused, float32": 3.0}
        monkeypatch.setattr(explicit, "times", lambda _what, _prepare, found=found: found)
        assert fastest() is VARIANTS[wanted]


@pytest.mark.parametrize("scale", [None, 0.05, 0.0])
@pytest.mark.parametrize("batch", [(3,), (2, 3), ()])
def test_attention_is_the_function_pytorch_computes(batch: tuple[int, ...], scale: float | None) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(*batch, 7, 16, dtype=bf16), torch.randn(*batch, 11, 16, dtype=bf16)
    v = torch.randn(*batch, 11, 8, dtype=bf16)
    kept = [x.clone() for x in (q, k, v)]
    truth = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=scale)
    with torch.no_grad(), faster_attention(nn.Linear(2, 2, dtype=bf16)):
        found = F.scaled_dot_product_attention(q, k, v, scale=scale)
    assert found.dtype == bf16
    torch.testing.assert_close(found.double(), truth, rtol=2e-2, atol=2e-2)
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), kept, strict=True))


def test_attention_reads_strided_parts_of_a_fused_projection() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 9, 3 * 4 * 8, dtype=bf16).view(2, 9, 3, 4, 8).permute(2, 0, 3, 1, 4)
    with torch.no_grad(), faster_attention(nn.Linear(2, 2, dtype=bf16)):
        strided = F.scaled_dot_product_attention(q, k, v)
        contiguous = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
    assert torch.equal(strided, contiguous)


@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (2, 1, 5, 24)])
def test_linear_layers_agree_with_pytorch_and_read_weights_as_they_are_now(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, dtype=bf16), torch.randn(*shape, dtype=bf16)
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    with torch.no_grad():
        for _ in range(2):
            truth = F.linear(x.double(), layer.weight.double(), layer.bias.double())
            with faster_attention(layer):
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
        with faster_attention(layer):
            assert torch.equal(bare(x), F.linear(x, bare.weight))
            assert torch.equal(wide(x.float()), F.linear(x.float(), wide.weight, wide.bias))
            assert torch.equal(layer(x[0]), F.linear(x[0], layer.weight, layer.bias))
            assert layer(x[:0]).shape == (0, 10)
        monkeypatch.setattr(explicit, "_linear_pointwise", None)
        with faster_attention(layer):
            found = layer(x)
        assert torch.equal(found, F.linear(x, layer.weight, layer.bias))
