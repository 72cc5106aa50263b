import math

import pytest
import timm
import torch
from torch import nn

from vitreg.models.heads import DinoHead, MaeDecoder, WeightNormLinear, sincos_positions


def test_dino_head_is_mlp_norm_and_cosines_with_prototypes():
    torch.manual_seed(0)
    head = DinoHead(12, 20, 8, 30)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, 5, 12)
    linear = [head.mlp[i] for i in (0, 2, 4)]
    hidden = x
    for number, layer in enumerate(linear):
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = hidden if number == 2 else hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    assert hidden.shape == (2, 5, 8)
    v, g = head.last_layer.weight_v, head.last_layer.weight_g
    for k in range(30):
        cosine = nn.functional.cosine_similarity(hidden, v[k], dim=-1)
        torch.testing.assert_close(head(x)[..., k], g[k, 0] * cosine, atol=1e-5, rtol=1e-5)


def test_dino_heads_weights_have_the_names_of_official_checkpoints():
    shapes = {name: tuple(value.shape) for name, value in DinoHead(12, 20, 8, 30).state_dict().items()}
    assert shapes == {
        "mlp.0.weight": (20, 12), "mlp.0.bias": (20,), "mlp.2.weight": (20, 20), "mlp.2.bias": (20,),
        "mlp.4.weight": (8, 20), "mlp.4.bias": (8,), "last_layer.weight_g": (30, 1), "last_layer.weight_v": (30, 8),
    }  # fmt: skip


def test_the_last_layer_is_torchs_legacy_weight_norm():
    ours = WeightNormLinear(8, 30)
    with torch.no_grad():
        ours.weight_g.uniform_(0.5, 2)
    theirs = nn.utils.weight_norm(nn.Linear(8, 30, bias=False))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, upstream = torch.randn(4, 8), torch.randn(4, 30)
    torch.testing.assert_close(ours(x), theirs(x))
    (ours(x) * upstream).sum().backward()
    (theirs(x) * upstream).sum().backward()
    torch.testing.assert_close(ours.weight_v.grad, theirs.weight_v.grad)
    torch.testing.assert_close(ours.weight_g.grad, theirs.weight_g.grad)


def test_dino_head_starts_as_official_ones_do_and_leaves_nothing_nan():
    head = DinoHead(64, 512, 256, 2000)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(float("nan"))
    head.init_weights()
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert head.mlp[2].bias.count_nonzero() == 0
    assert head.last_layer.weight_v.std().item() == pytest.approx(0.0361, rel=0.01)  # the default of nn.Linear
    assert head.last_layer.weight_v.abs().max().item() <= 1 / 16
    assert (head.last_layer.weight_g == 1).all()


def test_a_head_of_one_layer_has_the_names_of_official_ones_too():
    head = DinoHead(12, 20, 8, 30, layers=1)
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert shapes == {
        "mlp.weight": (8, 12), "mlp.bias": (8,), "last_layer.weight_g": (30, 1), "last_layer.weight_v": (30, 8),
    }  # fmt: skip
    assert head.mlp.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert head(torch.randn(2, 12)).shape == (2, 30)


@pytest.mark.parametrize("frozen", [True, False])
def test_dino_keeps_prototypes_at_length_one_and_dinov2_trains_it(frozen):
    head = DinoHead(12, 20, 8, 30, norm_last_layer=frozen)
    head(torch.randn(4, 12)).square().sum().backward()
    assert head.last_layer.weight_g.requires_grad is not frozen
    assert (head.last_layer.weight_g.grad is None) is frozen
    assert head.last_layer.weight_v.grad.abs().sum() > 0


def test_fewer_layers_and_half_precision():
    assert len([m for m in DinoHead(12, 20, 8, 30, layers=1).modules() if isinstance(m, nn.Linear)]) == 1
    head = DinoHead(12, 20, 8, 30).half()
    with torch.no_grad():
        head.mlp[4].weight.zero_()
        assert head(torch.randn(4, 12).half()).isfinite().all()  # a zero vector is not divided by zero
    with pytest.raises(ValueError, match="at least one layer"):
        DinoHead(12, layers=0)


def test_fixed_positions_against_a_naive_loop():
    rows, cols, width = 3, 5, 16
    table = sincos_positions((rows, cols), width)
    assert table.shape == (15, 16)
    for row in range(rows):
        for col in range(cols):
            for i in range(4):
                frequency = 10000 ** (-i / 4)
                wanted = [f(place * frequency) for place in (col, row) for f in (math.sin, math.cos)]
                assert table[row * cols + col, i::4].tolist() == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions((2, 2), 6)


def decoder(**options) -> MaeDecoder:
    torch.manual_seed(0)
    built = MaeDecoder(24, (4, 2), (3, 4), width=32, depth=2, heads=4, **options)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built.eval()


@pytest.mark.parametrize("cls_tokens", [0, 1])
def test_mae_decoder_puts_every_token_in_its_place(cls_tokens):
    ours = decoder()
    visible = torch.tensor([[7, 0, 10], [2, 11, 3]])
    cls, patches = torch.randn(2, cls_tokens, 24), torch.randn(2, 3, 24)
    x = ours.mask_token[0, 0].repeat(2, 12, 1)
    for image in range(2):
        for place, token in zip(visible[image].tolist(), patches[image], strict=True):
            x[image, place] = ours.embed(token)
    x = torch.cat([ours.embed(cls), x + sincos_positions((3, 4), 32)], dim=1)
    for block in ours.blocks:
        theirs = timm.models.vision_transformer.Block(32, 4, qkv_bias=True)
        theirs.load_state_dict(block.state_dict(), strict=True)
        x = theirs(x)
    wanted = ours.pred(ours.norm(x))[:, cls_tokens:]
    got = ours(cls, patches, visible)
    assert got.shape == (2, 12, 4 * 2 * 3)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_the_order_of_visible_patches_does_not_matter():
    ours, visible = decoder(), torch.tensor([[7, 0, 10]])
    cls, patches = torch.randn(1, 1, 24), torch.randn(1, 3, 24)
    order = [2, 0, 1]
    torch.testing.assert_close(ours(cls, patches, visible), ours(cls, patches[:, order], visible[:, order]))


def test_mae_decoder_has_the_papers_shape_and_starts_without_nan():
    with torch.device("meta"):
        built = MaeDecoder(1024, (16, 16), (14, 14))
    assert (built.embed.out_features, len(built.blocks), built.blocks[0].attn.num_heads) == (512, 8, 16)
    assert built.pred.out_features == 768
    assert "positions" not in built.state_dict()
    small = MaeDecoder(24, (4, 4), (3, 4), 32, 2, 4)
    with torch.no_grad():
        for value in (*small.parameters(), *small.buffers()):
            value.fill_(float("nan"))
    small.init_weights()
    assert all(value.isfinite().all() for value in (*small.parameters(), *small.buffers()))
    assert torch.equal(small.positions, sincos_positions((3, 4), 32))
    assert small.blocks[0].mlp.fc1.weight.abs().max().item() <= math.sqrt(6 / (32 + 128))


def test_every_parameter_of_the_decoder_learns_and_positions_are_fixed():
    ours = decoder()
    ours(torch.randn(2, 1, 24), torch.randn(2, 3, 24), torch.tensor([[7, 0, 10]] * 2)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in ours.parameters())
    assert not ours.positions.requires_grad


def test_under_bfloat16_autocast_both_stay_close():
    ours, head = decoder(), DinoHead(24, 20, 8, 30)
    given = torch.randn(2, 1, 24), torch.randn(2, 3, 24), torch.tensor([[7, 0, 10]] * 2)
    with torch.no_grad():
        wanted = ours(*given), head(given[1])
        with torch.autocast("cpu", torch.bfloat16):
            half = ours(*given), head(given[1])
    for one, other in zip(half, wanted, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.05 * other.abs().max().item(), rtol=0.05)
