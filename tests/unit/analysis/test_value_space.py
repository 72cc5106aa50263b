"""What the value projection makes of outliers: against a loop in float64, and on directions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vitreg.analysis.value_space import ValueProjection, ValueSums, both_normed, projection_of
from vitreg.backbones import Backbone, Capture
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.testing.toys import Block, DropsTokens, TokenMixer, ToyViT

HEADS, WIDTH = 3, 24


def small():
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, WIDTH, 3, HEADS, registers=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Backbone(model)


def toy(kind):
    model = kind()
    return Backbone(model, model.anatomy())


def images(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def every_fifth(norms, _layer):
    """Patches taken for outliers."""
    return torch.arange(len(norms)) % 5 == 2


def outside_by_hand(rows, directions):
    """Share of each direction outside the row space of a matrix, by an orthonormal basis of it."""
    basis = np.linalg.svd(rows, full_matrices=False)[2]
    return 1 - ((directions @ basis.T) ** 2).sum(1) / (directions**2).sum(1)


@pytest.mark.parametrize("backbone", [small(), toy(DropsTokens)], ids=["ours", "dropping"])
def test_numbers_are_those_of_a_loop(backbone):
    sums, given = ValueSums(backbone, [1, 2]), images(3)
    for image in given:
        sums.add(image[None], every_fifth)
    found = {each["block"]: each for each in sums.result(float)}
    for block in (1, 2):
        module = backbone.anatomy.blocks[block]
        weight, bias = (each.detach().double().numpy() for each in (module.attn.qkv.weight, module.attn.qkv.bias))
        gain, shift = (each.detach().double().numpy() for each in (module.norm1.weight, module.norm1.bias))
        width = weight.shape[1]
        weight, bias = weight[2 * width :], bias[2 * width :]
        kept = {True: [], False: []}
        for image in given:
            trace = backbone.trace(image[None], Capture(hidden=[block - 1]))
            layout = trace.layout_before(block)
            patches = trace.hidden(block - 1)[0][layout.patch_index[layout.present]].double().numpy()
            for number, x in enumerate(patches):
                kept[number % 5 == 2].append((x - x.mean()) / np.sqrt(x.var() + module.norm1.eps))
        assert found[block]["outliers"] == len(kept[True])
        for head in range(HEADS):
            own = slice(head * width // HEADS, (head + 1) * width // HEADS)
            mean = {}
            for outlier, plain in kept.items():
                plain = np.array(plain)
                values = (plain * gain + shift) @ weight[own].T
                lengths = (np.linalg.norm(each, axis=1).mean() for each in (values + bias[own], values))
                mean[outlier] = [*lengths, outside_by_hand(weight[own] * gain, plain).mean()]
            for name, place in (("length", 0), ("length_without_bias", 1)):
                assert found[block][name][head] == pytest.approx(mean[True][place] / mean[False][place], rel=1e-4)
            assert found[block]["outside"][head] == pytest.approx(mean[True][2], abs=1e-4)
            assert found[block]["outside_normal"][head] == pytest.approx(mean[False][2], abs=1e-4)


def test_random_directions_are_what_draws_give():
    projection = projection_of(small(), 1)
    draws = np.random.default_rng(0).standard_normal((40_000, WIDTH))
    draws -= draws.mean(1, keepdims=True)
    for head in range(HEADS):
        rows = (projection.weight[head] * projection.gain).double().numpy()
        found = float(projection.outside_random[head])
        assert found == pytest.approx(outside_by_hand(rows, draws).mean(), abs=0.003)
        assert found == pytest.approx(1 - 8 / WIDTH, abs=0.05)


def test_a_direction_in_the_null_space_is_outside_and_a_row_is_inside():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 8, WIDTH, generator=generator)
    gain = torch.rand(WIDTH, generator=generator) + 0.5
    projection = ValueProjection(weight, gain, centred=False)
    null = torch.linalg.svd((weight[0] * gain).double()).Vh[8:].float()
    assert projection.outside(null).tolist()[0] == pytest.approx([1.0] * 16, abs=1e-5)
    assert projection.outside(weight[0] * gain).tolist()[0] == pytest.approx([0.0] * 8, abs=1e-5)
    assert float(projection.outside_random[0]) == pytest.approx(16 / 24)


def test_a_head_that_lacks_rank_has_a_wider_null_space():
    weight = torch.randn(1, 8, WIDTH, generator=torch.Generator().manual_seed(0))
    weight[0, 4:] = weight[0, :4]
    projection = ValueProjection(weight, torch.ones(WIDTH), centred=False)
    assert float(projection.outside_random[0]) == pytest.approx(20 / 24, abs=1e-6)


def test_both_kinds_of_norms_are_read():
    given = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0)) * 3 + 1
    for norm in (nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)):
        nn.init.normal_(norm.weight)
        normed, plain = both_normed(norm, given)
        torch.testing.assert_close(normed, norm(given))
        torch.testing.assert_close(plain.square().mean(1), torch.ones(5), rtol=1e-4, atol=1e-4)

    class Plus(nn.RMSNorm):
        """A weight that is added to 1, as in Gemma."""

        def forward(self, x):
            return nn.functional.rms_norm(x, (WIDTH,)) * (1 + self.weight)

    with pytest.raises(UserError, match="a Plus, is neither a LayerNorm nor an RMSNorm"):
        both_normed(Plus(WIDTH), given)


def test_values_that_are_no_projection_of_the_norm_are_refused():
    class PostNorm(Block):
        def forward(self, x):
            return self.norm1(x + self.attn(x)) * 2 + x  # its input has no norm

    class PostNormViT(ToyViT):
        def block(self, number):
            return PostNorm(super().block(number).attn, writes=False)

    with pytest.raises(
        UserError, match=r"values of block 1 are not a projection of its norm's output alone: they differ by"
    ):
        ValueSums(toy(PostNormViT), [1]).add(images(1), every_fifth)


def test_unknown_parts_are_named():
    with pytest.raises(UserError, match="value projections of this TokenMixer are not known"):
        ValueSums(toy(TokenMixer), [1])
    backbone = toy(ToyViT)
    del backbone.anatomy.blocks[1].norm1
    with pytest.raises(UserError, match="norm before the attention of block 1 is not recognised"):
        ValueSums(backbone, [1])
