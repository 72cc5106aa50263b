"""What kinds of tokens take: attention and values against a loop over images, heads, queries and keys."""

import math

import pytest
import torch

from vitreg.backbones import Backbone, Capture
from vitreg.models.vit import VisionTransformer
from vitreg.verbs.scan.taking import AT_ONCE, taken_by_block


def small(**changes):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 3, 3, **changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return Backbone(model)


def images(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("attention", ["softmax", "off-by-one"])
def test_attention_and_values_are_those_of_a_loop(attention):
    backbone, pixels, queries = small(registers=2, attention=attention), images(3), [4, 9, 17]
    chosen = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    chosen[1] = False  # an image without such patches counts as giving them nothing
    taken = taken_by_block(backbone, pixels, [queries] * 3)
    trace = backbone.trace(pixels, Capture(qkv="all", norms="all"))
    for layer, each in enumerate(taken):
        qkv, layout = trace.qkv(layer), trace.layout_before(layer)
        rows, values = qkv.rows(queries), qkv.v  # [B, heads, Q, M], [B, heads, M, d]
        mass, registers, lengths = 0.0, 0.0, []
        for b in range(3):
            for h in range(3):
                lengths_of_head = [float(v.norm()) for v in values[b, h]]
                mean = sum(lengths_of_head) / len(lengths_of_head)
                for q in range(3):
                    registers += sum(float(rows[b, h, q, k]) for k in layout.registers) / 27
                for p in range(16):
                    if chosen[b, p]:
                        key = layout.patch(p // 4, p % 4)
                        mass += sum(float(rows[b, h, q, key]) for q in range(3)) / 27
                        lengths.append(lengths_of_head[key] / mean)
        assert each.by(chosen) == pytest.approx((mass, sum(lengths) / len(lengths)), rel=1e-4)
        assert each.by_registers()[0] == pytest.approx(registers, rel=1e-4)
        numbers, sinks = [], 0
        for b in range(3):
            for h in range(3):
                shares = rows[b, h].mean(0)
                own = [float(shares[k]) / sum(float(shares[k]) for k in layout.registers) for k in layout.registers]
                numbers.append(math.exp(-sum(p * math.log(p) for p in own)))
                sinks += any(float(share) >= 0.3 for share in shares)
        assert float(each.number.mean()) == pytest.approx(sum(numbers) / 9, rel=1e-4)
        assert float(each.sinks.mean()) == pytest.approx(sinks / 9)
        assert torch.equal(each.register_norms, trace.norms(layer)[:, list(layout.registers)])
        assert torch.equal(each.cls_norms, trace.norms(layer)[:, :1])
        norms = trace.norms(layer)[:, list(layout.patch_index)]
        assert each.ratio == pytest.approx(float((norms.amax(1) / norms.quantile(0.5, 1)).quantile(0.5)), rel=1e-4)


def test_nothing_is_said_of_tokens_that_are_not_there():
    each = taken_by_block(small(), images(2), [[1, 2]] * 3)[0]
    assert each.by_registers() == (None, None)
    assert each.by(torch.zeros(2, 16, dtype=torch.bool)) == (None, None)
    assert each.by(None) == (None, None)


def test_more_images_than_one_forward_holds_give_the_same():
    backbone, pixels = small(registers=1), images(AT_ONCE + 3)
    whole, last = (taken_by_block(backbone, each, [[2, 5]] * 3)[2] for each in (pixels, pixels[-3:]))
    assert torch.allclose(whole.attention[-3:], last.attention, atol=1e-6)
    assert torch.allclose(whole.register_values[-3:], last.register_values, atol=1e-5)
