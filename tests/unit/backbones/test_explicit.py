"""bfloat16 on a CPU: the faster forms compute what PyTorch's own do, and step aside where they do not apply."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.backbones import explicit
from vitreg.backbones.explicit import faster_attention

bf16 = torch.bfloat16


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
