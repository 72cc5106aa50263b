"""Groups of parameters against the rules of those who trained with them, applied by name to real modules."""

import dataclasses

import pytest
import torch
from torch import nn

from vitreg.models.vit import VisionTransformer
from vitreg.recipes.parameters import TOKENS, decays, group_parameters, layers_above
from vitreg.recipes.settings import OptimConfig


class Head(nn.Module):
    """The layout of a DINO head's state dict."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
        self.last_layer = nn.utils.weight_norm(nn.Linear(4, 32, bias=False))


class Distillation(nn.Module):
    """Student, frozen teacher, two heads and a bare parameter."""

    def __init__(self, depth=12, registers=2):
        super().__init__()
        self.student = VisionTransformer(28, 14, 8, depth, 2, registers=registers, layer_scale=1e-5)
        self.student.mask_token = nn.Parameter(torch.zeros(1, 8))
        self.teacher = VisionTransformer(28, 14, 8, depth, 2, registers=registers).requires_grad_(False)
        self.dino_head, self.ibot_head = Head(), Head()
        self.logit_scale = nn.Parameter(torch.zeros(()))


def treatment(groups):
    """{name: its group}, after checking that no parameter is in two."""
    by_name = {name: group for group in groups for name in group.names}
    assert len(by_name) == sum(len(group.names) for group in groups)
    return by_name


def recipes():
    yield "distillation", Distillation()
    supervised = nn.Module()
    supervised.vit = VisionTransformer(28, 14, 8, 3, 2, registers=1, layer_scale=1e-4, num_classes=5)
    yield "supervised", supervised
    yield "a bare network", VisionTransformer(28, 14, 8, 3, 2, num_classes=5)


@pytest.mark.parametrize("recipe", [recipe for _, recipe in recipes()], ids=[name for name, _ in recipes()])
def test_every_trainable_parameter_is_in_exactly_one_group(recipe):
    groups = group_parameters(recipe, OptimConfig(layer_decay=0.9, patch_embed_lr=0.2))
    by_name = treatment(groups)
    wanted = {name: parameter for name, parameter in recipe.named_parameters() if parameter.requires_grad}
    assert by_name.keys() == wanted.keys()
    for group in groups:
        assert len(group.names) == len(group.params)
        assert all(wanted[name] is parameter for name, parameter in zip(group.names, group.params, strict=True))
    assert len({dataclasses.replace(group, names=(), params=()) for group in groups}) == len(groups), "not fused"


def test_golden_learning_rate_multipliers_of_dinov2():
    groups = group_parameters(Distillation(depth=12), OptimConfig(layer_decay=0.9, patch_embed_lr=0.2))
    scale = {name: group.lr_scale for name, group in treatment(groups).items()}
    for token in ("cls_token", "reg_token", "mask_token", "pos_embed"):
        assert scale[f"student.{token}"] == pytest.approx(0.25419, abs=5e-6)
    assert scale["student.patch_embed.proj.weight"] == pytest.approx(0.05084, abs=5e-6)
    assert scale["student.patch_embed.proj.bias"] == pytest.approx(0.05084, abs=5e-6)
    assert scale["student.blocks.0.attn.qkv.weight"] == pytest.approx(0.28243, abs=5e-6)
    assert scale["student.blocks.0.ls1.gamma"] == pytest.approx(0.28243, abs=5e-6)
    assert scale["student.blocks.11.mlp.fc1.weight"] == pytest.approx(0.9)
    assert scale["student.norm.weight"] == 1.0
    for name, value in scale.items():
        if not name.startswith("student."):
            assert value == 1.0, name


def test_the_classifier_inside_the_network_learns_at_the_full_rate():
    recipe = dict(recipes())["supervised"]
    groups = treatment(group_parameters(recipe, OptimConfig(layer_decay=0.5, patch_embed_lr=0.2)))
    assert groups["vit.head.weight"].lr_scale == 1.0
    assert groups["vit.blocks.2.norm1.weight"].lr_scale == 0.5
    assert groups["vit.pos_embed"].lr_scale == 0.5**4


def test_what_stands_before_the_blocks_learns_slowest():
    for name in ("norm_pre.weight", "reg_pos", "patch_embed.proj.weight", "pos_embed"):
        assert layers_above(name, 12) == 13
    assert [layers_above(f"blocks.{i}.norm1.bias", 12) for i in (0, 9, 11)] == [12, 3, 1]
    assert layers_above("norm.bias", 12) == layers_above("head.weight", 12) == 0


def test_official_dinov2_decays_tokens_and_the_last_layer():
    def official(name):
        return 0.0 if name.endswith(".bias") or "norm" in name or "gamma" in name else 1.0

    groups = treatment(group_parameters(Distillation(), OptimConfig(decay_tokens=True)))
    del groups["logit_scale"]  # not DINOv2's
    assert {name: group.decay_scale for name, group in groups.items()} == {name: official(name) for name in groups}
    for name in ("student.reg_token", "student.cls_token", "student.pos_embed", "student.mask_token"):
        assert groups[name].decay_scale == 1.0
    assert groups["dino_head.last_layer.weight_g"].decay_scale == 1.0
    assert groups["dino_head.last_layer.weight_v"].decay_scale == 1.0


def test_by_default_no_token_decays():
    by_default = treatment(group_parameters(Distillation(), OptimConfig()))
    official = treatment(group_parameters(Distillation(), OptimConfig(decay_tokens=True)))
    differ = {name for name in official if by_default[name].decay_scale != official[name].decay_scale}
    assert differ == {f"student.{name}" for name in ("cls_token", "reg_token", "mask_token", "pos_embed")}
    assert all(by_default[name].decay_scale == 0.0 for name in differ)


def test_the_default_is_that_of_deit():
    from timm.optim import param_groups_weight_decay

    recipe = dict(recipes())["supervised"]
    skip = {"vit.pos_embed", "vit.cls_token", "vit.reg_token"}
    still, decayed = param_groups_weight_decay(recipe, 0.05, no_weight_decay_list=skip)
    assert still["weight_decay"] == 0
    ours = {True: set(), False: set()}
    for group in group_parameters(recipe, OptimConfig()):
        ours[group.decay_scale == 1.0] |= {id(parameter) for parameter in group.params}
    assert ours == {True: set(map(id, decayed["params"])), False: set(map(id, still["params"]))}


def small_open_clip():
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    vision = open_clip.CLIPVisionCfg(layers=2, width=16, head_width=8, patch_size=8, image_size=16)
    text = open_clip.CLIPTextCfg(context_length=7, vocab_size=50, width=16, heads=2, layers=2)
    return open_clip.CLIP(8, vision, text)


def test_the_default_is_that_of_new_open_clip():
    model = small_open_clip()
    fixed = model.no_weight_decay()
    assert fixed == {"positional_embedding", "visual.positional_embedding", "visual.class_embedding"}
    for name, parameter in model.named_parameters():
        official = parameter.ndim >= 2 and name not in fixed
        assert decays(name, parameter.ndim, tokens=False) == official, name


def test_decayed_tokens_are_those_of_old_open_clip():
    for name, p in small_open_clip().named_parameters():
        exclude = p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        assert decays(name, p.ndim, tokens=True) == (not exclude), name


def test_tokens_are_known_by_name():
    network = VisionTransformer(28, 14, 8, 1, 2, registers=2)
    assert {name for name, _ in network.named_parameters(recurse=False)} <= TOKENS


def test_only_the_last_layers_of_heads_wait():
    groups = treatment(group_parameters(Distillation(), OptimConfig(), frozen_last_layer=1250))
    waiting = {name for name, group in groups.items() if group.frozen_steps}
    assert waiting == {f"{head}.last_layer.weight_{x}" for head in ("dino_head", "ibot_head") for x in "gv"}
    assert {groups[name].frozen_steps for name in waiting} == {1250}


def test_groups_know_what_is_clipped_together():
    groups = treatment(group_parameters(Distillation(), OptimConfig()))
    assert {group.module for group in groups.values()} == {"backbone", "dino_head", "ibot_head", "logit_scale"}
    assert groups["student.norm.weight"].module == "backbone"
    assert groups["ibot_head.mlp.0.weight"].module == "ibot_head"
