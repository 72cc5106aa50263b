"""Every family of ViT keeps every promise of `check_backbone`, and the suite itself notices broken ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hub_shaped import Dino, RotatingAttention
from slow_models import NAMED, build_named
from tiny_models import EXEMPT, FAMILIES, build, from_timm, from_transformers, randomised
from torch import nn

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.trace import Capture
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.testing import check_backbone
from vitreg.tokens import TokenLayout


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_every_promise(name):
    backbone = Backbone(build(name))
    report = check_backbone(backbone)
    exempt = EXEMPT.get(name, {})
    missing = {check: reason for check, reason in report.items() if reason != "held" and check not in exempt}
    assert not missing
    for check, word in exempt.items():
        assert word in report[check]


@pytest.mark.parametrize("name", FAMILIES)
def test_registers_and_class_tokens_are_where_the_library_puts_them(name):
    _, registers, cls, other = FAMILIES[name]
    layout = Backbone(build(name)).layout(find_anatomy(build(name)).native_size)
    assert (layout.registers, layout.cls, layout.other) == (registers, cls, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_named_models_keep_every_promise(name):
    report = check_backbone(Backbone(randomised(build_named(name))))
    # Its position bias is tied to its tokens.
    allowed = {"not square", "added tokens"} if "beit" in name else set()
    assert {check for check, reason in report.items() if reason != "held"} <= allowed


def test_there_are_enough_families():
    assert len(FAMILIES) >= 12
    assert len(NAMED) >= 40


def test_softmax_by_hand_is_read_from_the_projections():
    assert Backbone(build("hub dino")).attention_status().source == "projections"
    assert Backbone(build("hf vit eager")).attention_status().source == "projections"
    assert Backbone(build("timm dinov3")).attention_status().source == "sdpa"


def test_rotary_attention_by_hand_is_refused_with_the_remedy_and_norms_still_work():
    backbone = Backbone(randomised(from_transformers("DINOv3ViTModel", "DINOv3ViTConfig", "eager")))
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(UserError, match="attn_implementation='sdpa'"):
        backbone.trace(images, Capture(rows=("all", [0])))
    assert backbone.trace(images, Capture(norms="all")).norms(-1).shape == (2, backbone.layout((64, 64)).length)
    report = check_backbone(backbone)
    assert "cannot be read" in report["attention"]


def test_rotary_attention_by_hand_in_a_hub_module_is_refused(monkeypatch):
    monkeypatch.setattr(RotatingAttention, "fused", False)
    backbone = Backbone(build("hub dinov3"))
    assert not backbone.attention_status().readable
    with pytest.raises(UserError, match="scaled_dot_product_attention"):
        backbone.trace(torch.randn(1, 3, 64, 64), Capture(qkv=[0]))


def test_timm_without_fused_attention_is_read_from_the_projections():
    from timm.layers import set_fused_attn

    set_fused_attn(False)
    try:
        plain, norms = from_timm("vit_tiny_patch16_224"), from_timm("vit_tiny_patch16_224", qk_norm=True)
    finally:
        set_fused_attn(True)
    backbone = Backbone(randomised(plain))
    assert backbone.attention_status().source == "projections"
    assert check_backbone(backbone)["attention"] == "held"
    refused = Backbone(randomised(norms)).attention_status()
    assert not refused.readable
    assert "set_fused_attn" in refused.reason


def test_an_unknown_module_gets_one_sentence_with_the_remedy():
    with pytest.raises(UserError, match=r"Backbone\(module, anatomy\)") as caught:
        find_anatomy(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "cait_xxs24_224", "resnet18", "naflexvit_base_patch16_gap"])
def test_other_networks_are_not_taken_for_a_vit(name):
    import timm

    with pytest.raises(UserError, match="not a Vision Transformer known here"):
        find_anatomy(timm.create_model(name, pretrained=False))


def test_wrappers_are_followed():
    vit = build("vitreg")
    wrapper = nn.Module()
    wrapper.module = vit
    assert find_anatomy(wrapper).tower is vit
    compiled = nn.Module()  # as torch.compile wraps
    compiled._orig_mod = vit
    assert find_anatomy(compiled).tower is vit


def test_an_anatomy_made_by_hand_serves_a_module_nobody_knows():
    class Stranger(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner.forward_features(images)

    stranger = Stranger(build("vitreg"))
    with pytest.raises(UserError):
        find_anatomy(stranger)
    known = find_anatomy(stranger.inner)
    by_hand = replace(known, library="mine", tower=stranger, encode=stranger, attention=())
    report = check_backbone(Backbone(stranger, by_hand))
    assert report["attention"] == "held"  # seen as it is computed, without knowing the projections
    assert report["output projection"] != "held"


class TestTheSuiteItself:
    """A suite that cannot fail proves nothing: break one promise at a time."""

    def broken(self, **changes):
        module = build("vitreg")
        return Backbone(module, replace(find_anatomy(module), **changes))

    def test_wrong_final_norm(self):
        with pytest.raises(AssertionError, match="final_norm"):
            check_backbone(self.broken(final_norm=nn.Identity()))

    def test_registers_taken_for_patches(self):
        def layout(size):
            return TokenLayout.prefixed((size[0] // 16, size[1] // 16), cls_tokens=5)

        with pytest.raises(AssertionError, match="4 learned registers but 0"):
            check_backbone(self.broken(layout=layout))

    def test_a_token_too_many(self):
        def layout(size):
            return TokenLayout.prefixed((size[0] // 16, size[1] // 16), cls_tokens=1, registers=5)

        with pytest.raises(UserError, match="anatomy says"):
            check_backbone(self.broken(layout=layout))

    def test_rows_and_cols_swapped(self):
        def layout(size):
            return TokenLayout.prefixed((size[1] // 16, size[0] // 16), cls_tokens=1, registers=4)

        with pytest.raises(AssertionError, match="grid"):
            check_backbone(self.broken(layout=layout))

    def test_a_hook_left_behind(self):
        module = build("vitreg")

        def encode(images):
            module.blocks[0].register_forward_hook(lambda *_: None)
            return module.forward_features(images)

        with pytest.raises(AssertionError, match=r"blocks\.0.*hooks"):
            check_backbone(Backbone(module, replace(find_anatomy(module), encode=encode)))

    def test_an_attribute_left_behind(self):
        module = build("vitreg")

        def encode(images):
            module.features = module.forward_features(images)
            return module.features

        with pytest.raises(AssertionError, match="attributes"):
            check_backbone(Backbone(module, replace(find_anatomy(module), encode=encode)))

    def test_a_parameter_replaced(self):
        module = build("vitreg")

        def encode(images):
            module.pos_embed = nn.Parameter(module.pos_embed.clone())
            return module.forward_features(images)

        with pytest.raises(AssertionError, match="tensors"):
            check_backbone(Backbone(module, replace(find_anatomy(module), encode=encode)))

    def test_random_numbers_drawn(self):
        module = build("vitreg")

        def encode(images):
            torch.rand(1)
            return module.forward_features(images)

        with pytest.raises(AssertionError, match="random"):
            check_backbone(Backbone(module, replace(find_anatomy(module), encode=encode)))

    def test_masked_patches(self):
        module = build("vitreg")

        def encode(images):
            return module.forward_features(images)[:, :-3]

        with pytest.raises(UserError, match="shape"):
            check_backbone(Backbone(module, replace(find_anatomy(module), encode=encode)))

    def test_images_of_a_batch_mixed(self):
        class Mixing(VisionTransformer):
            def embed(self, images):
                tokens = super().embed(images)
                return tokens + tokens.mean(dim=0, keepdim=True)

        module = randomised(Mixing(64, 16, 48, 3, 3, registers=4))
        with pytest.raises(AssertionError, match="batch of one"):
            check_backbone(Backbone(module))

    def test_projections_in_another_order(self):
        module = build("hub dino")
        parts = tuple(replace(part, scale=2 * part.scale) for part in find_anatomy(module).attention)
        status = Backbone(module, replace(find_anatomy(module), attention=parts)).attention_status()
        assert not status.readable
        assert status.error > 1e-3

    def test_blocks_out_of_order(self):
        module = build("vitreg")
        blocks = find_anatomy(module).blocks
        with pytest.raises(AssertionError, match="blocks run in the order"):
            check_backbone(
                Backbone(module, replace(find_anatomy(module), blocks=(blocks[0], blocks[2], blocks[1]), attention=()))
            )


def test_broken_weights_make_attention_unreadable_not_wrong():
    module = randomised(Dino())
    with torch.no_grad():
        module.blocks[1].attn.qkv.weight.fill_(torch.nan)
    status = Backbone(module).attention_status()
    assert not status.readable
