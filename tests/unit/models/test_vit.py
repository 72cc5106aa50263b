import pytest
import timm
import torch
from torch import nn

from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer


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

    def masked(q, k, v):
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
