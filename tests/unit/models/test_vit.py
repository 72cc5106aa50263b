import json
from functools import partial

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from torch import nn

from vitreg.errors import UserError
from vitreg.models.block import swiglu_hidden
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import PatchProjection, VisionTransformer


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter a value that matters, also those that start at zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def small(**options) -> VisionTransformer:
    return randomise(VisionTransformer(64, 16, 48, 3, 4, **options))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("layer_scale", [None, 1e-2])
def test_timm_loads_our_weights_strictly_and_gives_the_same_outputs(registers, layer_scale):
    ours = randomise(
        VisionTransformer(224, 16, 384, 3, 6, registers=registers, layer_scale=layer_scale, num_classes=10)
    )
    theirs = timm.create_model(
        "vit_small_patch16_224",
        depth=3,
        reg_tokens=registers,
        no_embed_class=True,
        init_values=layer_scale,
        num_classes=10,
        dynamic_img_size=True,
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for size in ((224, 224), (96, 160)):
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(
                ours.forward_features(images), theirs.forward_features(images), atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_a_stored_grid_that_is_not_square_agrees_with_timm():
    ours = randomise(VisionTransformer((64, 96), (16, 8), 48, 2, 4, registers=2))
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=(64, 96), patch_size=(16, 8), embed_dim=48, depth=2, num_heads=4, reg_tokens=2,
        no_embed_class=True, num_classes=0, dynamic_img_size=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.inference_mode():
        for size in ((64, 96), (96, 64)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_the_patch_projection_is_the_convolution_it_stands_for():
    torch.manual_seed(0)
    projection = PatchProjection(3, 5, kernel_size=(4, 6), stride=(4, 6)).double()
    images, weights = torch.randn(2, 3, 12, 24, dtype=torch.float64, requires_grad=True), list(projection.parameters())
    ours, theirs = projection(images), nn.functional.conv2d(images, *weights, stride=(4, 6))
    torch.testing.assert_close(ours, theirs)
    far = torch.randn_like(ours)
    for one, other in zip(*(torch.autograd.grad(y, [images, *weights], far) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def test_without_cls_the_head_reads_the_mean_patch():
    ours = small(registers=2, cls_token=False, num_classes=5)
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=4, reg_tokens=2, class_token=False,
        global_pool="avg", fc_norm=False, no_embed_class=True, num_classes=5,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)
    assert ours.layout().registers == (0, 1)


def test_registers_stand_between_cls_and_patches_without_a_position():
    model = small(registers=4)
    layout = model.layout((64, 32))
    assert (layout.cls, layout.registers, layout.patches, layout.grid) == ((0,), (1, 2, 3, 4), slice(5, 13), (4, 2))
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        tokens = model.embed(images)
        torch.testing.assert_close(tokens[1, 1:5], model.reg_token[0])
        before = model.forward_features(images)
        assert before.shape == (2, layout.length, 48)
        order = [2, 0, 3, 1]
        model.reg_token.copy_(model.reg_token[:, order])
        after = model.forward_features(images)
    torch.testing.assert_close(after[:, 1:5], before[:, 1:5][:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[:, 5:], before[:, 5:], atol=1e-5, rtol=1e-5)


def test_with_no_attention_to_registers_the_model_is_the_one_without(monkeypatch):
    with_registers, without = small(registers=3), small()
    weights = with_registers.state_dict()
    without.load_state_dict({name: value for name, value in weights.items() if name != "reg_token"})
    attend = nn.functional.scaled_dot_product_attention

    def masked(q, k, v, attn_mask=None):
        seen = torch.ones(1, k.shape[-2], dtype=torch.bool)
        seen[:, 1:4] = k.shape[-2] == 17  # only the model with registers has more than CLS and 16 patches
        return attend(q, k, v, attn_mask=seen)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", masked)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours = with_registers.forward_features(images)
        torch.testing.assert_close(ours[:, [0, *range(4, 20)]], without.forward_features(images), atol=1e-5, rtol=1e-5)


def test_registers_start_small_and_different():
    registers = VisionTransformer(64, 16, 48, 1, 4, registers=4).reg_token[0]
    assert 0 < registers.abs().max() < 1e-5
    assert len(registers.unique(dim=0)) == 4
    assert "reg_token" not in VisionTransformer(64, 16, 48, 1, 4).state_dict()


def test_init_weights_leaves_no_parameter_as_it_was():
    model = VisionTransformer(64, 16, 48, 2, 4, registers=2, layer_scale=1e-5, num_classes=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.blocks[0].ls1.gamma.unique().item() == pytest.approx(1e-5)


def test_every_parameter_but_the_head_gets_a_gradient():
    model = small(registers=2, layer_scale=0.1)
    model.forward_features(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("size", "nearest"), [((225, 224), "224x224"), ((224, 15), "224x16")])
def test_a_size_that_the_patch_does_not_divide_is_refused_with_the_nearest(size, nearest):
    with pytest.raises(UserError, match=nearest):
        small()(torch.randn(1, 3, *size))


@pytest.mark.parametrize("wrong", [{"image_size": 65}, {"heads": 5}, {"image_size": 0}])
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"cannot be shared|not a multiple"):
        VisionTransformer(**{"image_size": 64, "patch": 16, "width": 48, "depth": 1, "heads": 4, **wrong})


def timm_twin(model: VisionTransformer, **options) -> nn.Module:
    """Build timm's network of the same shape, loaded strictly with what ours publishes."""
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=model.image_size, patch_size=model.patch, embed_dim=model.width, depth=len(model.blocks), num_heads=4,
        reg_tokens=model.num_registers, no_embed_class=True, dynamic_img_size=True,
        **{"num_classes": 0, **options},
    ).eval()  # fmt: skip
    theirs.load_state_dict(model.published_state(), strict=True)
    return theirs


CLIP_NORM = partial(nn.LayerNorm, eps=1e-5)
SHAPES = [
    ({"mlp": "swiglu"}, {"mlp_layer": SwiGLUPacked, "mlp_ratio": 2.66667 * 2, "act_layer": nn.SiLU}),
    ({"pre_norm": True, "norm_eps": 1e-5}, {"pre_norm": True, "norm_layer": CLIP_NORM}),
    ({"pool": "mean", "num_classes": 5}, {"global_pool": "avg", "fc_norm": False, "num_classes": 5}),
    ({"register_positions": True, "mask_token": True, "layer_scale": 0.1}, {"init_values": 0.1}),
]


@pytest.mark.parametrize("registers", [0, 1, 4])
@pytest.mark.parametrize(("ours", "theirs"), SHAPES, ids=["swiglu", "clip", "mean", "extras"])
def test_what_is_published_is_timms_for_every_shape(registers, ours, theirs):
    model = small(registers=registers, **ours)
    twin = timm_twin(model, **theirs)
    assert list(model.published_state()) == list(twin.state_dict())
    with torch.inference_mode():
        for size in ((64, 64), (32, 96)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(
                model.forward_features(images), twin.forward_features(images), atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(model(images), twin(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch14_reg4_dinov2", {"patch": 14, "registers": 4, "layer_scale": 1e-5}),
        ("deit3_small_patch16_224", {"patch": 16, "layer_scale": 1e-4, "num_classes": 7}),
    ],
)
def test_published_weights_load_into_timms_named_models(name, options):
    side = 6 * options["patch"]
    ours = randomise(VisionTransformer(side, width=384, depth=12, heads=6, **options))
    theirs = timm.create_model(
        name, pretrained=False, img_size=side, num_classes=options.get("num_classes", 0), dynamic_img_size=True
    ).eval()
    theirs.load_state_dict(ours.published_state(), strict=True)
    images = torch.randn(1, 3, 4 * options["patch"], side)
    with torch.inference_mode():
        mine, wanted = ours.forward_features(images), theirs.forward_features(images)
        torch.testing.assert_close(mine, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-5)


def test_published_register_positions_are_folded_and_load_back():
    config = ModelConfig(width=48, depth=2, heads=4, image_size=64, registers=3, register_positions=True)
    trained = randomise(VisionTransformer(**config.arguments(), mask_token=True))
    again = VisionTransformer(**config.published_arguments())
    again.load_state_dict(trained.published_state(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again.forward_features(images), trained.forward_features(images))
    assert {"reg_pos", "mask_token"} <= set(trained.state_dict())


@pytest.mark.parametrize(("width", "hidden"), [(384, 1024), (768, 2048), (1024, 2736), (1280, 3416), (1536, 4096)])
def test_swiglu_has_dinov2s_widths(width, hidden):
    assert swiglu_hidden(4 * width) == hidden
    with torch.device("meta"):
        mlp = VisionTransformer(64, 16, width, 1, 4, mlp="swiglu").blocks[0].mlp
    assert mlp.fc1.weight.shape == (2 * hidden, width)
    assert mlp.fc2.weight.shape == (width, hidden)


def test_the_first_half_of_swiglu_is_gated():
    mlp = VisionTransformer(64, 16, 48, 1, 4, mlp="swiglu").blocks[0].mlp
    x = torch.randn(3, 48)
    a, b = x @ mlp.fc1.weight[:128].T, x @ mlp.fc1.weight[128:].T
    torch.testing.assert_close(mlp(x), (a * a.sigmoid() * b) @ mlp.fc2.weight.T, atol=1e-6, rtol=1e-5)


def test_dinov2s_parameter_counts():
    count = {}
    with torch.device("meta"):
        for mlp, size in (("mlp", 518), ("swiglu", 224)):
            model = VisionTransformer(size, 14, 1024, 24, 16, mlp=mlp, layer_scale=1e-5, mask_token=True)
            count[mlp] = sum(p.numel() for p in model.parameters()) + 1024  # DINOv2 has a position of CLS too
    assert count == {"mlp": pytest.approx(304.37e6, abs=5e3), "swiglu": pytest.approx(303.66e6, abs=5e3)}


def test_nothing_stays_nan_after_init_with_every_option_on():
    model = VisionTransformer(
        64, 16, 48, 2, 4, registers=3, mlp="swiglu", layer_scale=1e-5, num_classes=3, pre_norm=True,
        register_positions=True, mask_token=True, register_init=0.02, token_init=0.5,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.mask_token.count_nonzero() == 0
    assert model.reg_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.cls_token.std().item() == pytest.approx(0.5, rel=0.5)
    assert len(model.reg_token[0].unique(dim=0)) == 3


@pytest.mark.parametrize("options", [{}, {"register_depth": 1}, {"register_positions": True, "pre_norm": True}])
def test_registers_learn_and_grow_apart(options):
    torch.manual_seed(0)
    model = VisionTransformer(32, 16, 48, 2, 4, registers=3, num_classes=4, token_init=0.02, **options)
    before = torch.pdist(model.reg_token[0].detach()).min()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(20):
        nn.functional.cross_entropy(model(images), labels).backward()
        assert model.reg_token.grad.abs().amax(dim=-1).min() > 0
        optimiser.step()
        optimiser.zero_grad()
    assert (
        torch.pdist(model.reg_token[0].detach()).min() > 2 * before
    )  # slowly: nearly equal registers get nearly equal gradients


def test_settings_build_what_they_say():
    config = ModelConfig(
        size="T", depth=2, registers=3, mlp="swiglu", pre_norm=True, norm_eps=1e-5, pool="mean",
        register_positions=True, register_depth=1,
    )  # fmt: skip
    arguments = json.loads(json.dumps(config.arguments()))
    model = VisionTransformer(**arguments)
    assert (model.width, len(model.blocks), model.num_registers, model.pool) == (192, 2, 3, "mean")
    assert model.blocks[0].attn.num_heads == 3
    assert [block.bypass for block in model.blocks] == [(1, 4), None]
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": "X"}, "no model size 'X'"),
        ({"heads": 5}, "384 cannot be shared by 5 heads"),
        ({"image_size": 225}, "multiple of the 16-pixel patch; 224 is"),
        ({"register_depth": 12}, "from 0 to 11"),
        ({"register_init": 0.0}, "stay equal"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        ModelConfig(**wrong).arguments()
