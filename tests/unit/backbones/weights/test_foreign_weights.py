"""Files of other libraries, loaded into ours or another's model, give the tokens that their own models give."""

from __future__ import annotations

import argparse

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.unit.backbones.weights.hub_vit import (
    CLOSE,
    DEPTH,
    DIM,
    HEADS,
    PATCH,
    REG,
    SIZE,
    SWIGLU,
    HubViT,
    chunked,
    shake,
    timm_vit,
)
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitreg.backbones.weights.into_module import load_weights


@pytest.mark.parametrize(
    ("source", "target", "layout"),
    [
        (lambda: HubViT(registers=4), lambda: timm_vit(**REG), "dinov2"),
        (lambda: HubViT(registers=4, gated=True), lambda: timm_vit(**REG, **SWIGLU), "dinov2"),
        (lambda: HubViT(), lambda: timm_vit(init_values=1e-5), "dinov2"),
        (lambda: HubViT(scale="none", mask=False), timm_vit, "timm"),  # DINO v1
        (
            lambda: HubViT(scale="gamma", cls_position=False, mask=False),
            lambda: timm_vit(no_embed_class=True, init_values=1e-4),
            "deit3",
        ),
        (lambda: HubViT(registers=4), lambda: HubViT(registers=4), "dinov2"),
        (
            lambda: HubViT(scale="gamma", cls_position=False, mask=False),
            lambda: HubViT(scale="ls", mask=False),
            "deit3",
        ),
        # rows for the registers in the table, as timm builds it without no_embed_class
        (lambda: HubViT(registers=4), lambda: timm_vit(reg_tokens=4, init_values=1e-5), "dinov2"),
    ],
)
def test_files_of_the_hub_repositories_give_the_same_tokens(source, target, layout, images, tmp_path):
    source, target = source(), target()
    torch.save(source.state_dict(), tmp_path / "hub.pth")
    report = load_weights(target, tmp_path / "hub.pth", strict=True)
    assert report.layout == layout
    assert report.resampled is None
    expected = source(images)
    got = target.forward_features(images) if isinstance(target, VisionTransformer) else target(images)
    torch.testing.assert_close(got, expected, **CLOSE)


def test_a_chunked_training_teacher_loads_and_its_heads_stay_out(images, tmp_path):
    source = HubViT(registers=4, gated=True)
    teacher = {f"module.backbone.{key}": value for key, value in chunked(source.state_dict()).items()}
    heads = {
        "module.dino_head.last_layer.weight_v": torch.zeros(8, 4),
        "module.ibot_head.mlp.0.weight": torch.zeros(4, 4),
    }
    student = {key: torch.zeros_like(value) for key, value in teacher.items()}
    file = tmp_path / "teacher_checkpoint.pth"
    torch.save(
        {"student": student, "teacher": teacher | heads, "iteration": 7, "args": argparse.Namespace(lr=0.1)}, file
    )
    target = timm_vit(**REG, **SWIGLU)
    report = load_weights(target, file)
    assert report.layout == "dinov2-training"
    assert any("took teacher" in note for note in report.notes)
    assert len(report.unexpected) == 3  # two heads and the mask token
    torch.testing.assert_close(target.forward_features(images), source(images), **CLOSE)
    # and timm's file goes back into a module with chunks
    nested = HubViT(registers=4, gated=True)
    nested.blocks = nn.ModuleList(nn.ModuleList([nn.Identity()] * i + [block]) for i, block in enumerate(nested.blocks))
    save_file(target.state_dict(), tmp_path / "timm.safetensors")
    load_weights(nested, tmp_path / "timm.safetensors")
    nested.blocks = nn.ModuleList(chunk[-1] for chunk in nested.blocks)
    torch.testing.assert_close(nested(images), source(images), **CLOSE)


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("norm", ["norm", "fc_norm"])
def test_an_mae_encoder_loads_and_the_decoder_stays_out(decoder, norm, images, tmp_path):
    source = shake(timm_vit())
    state = {
        key.replace("norm.", f"{norm}.") if key.startswith("norm.") else key: value
        for key, value in source.state_dict().items()
    }
    if decoder:
        state |= {
            "decoder_embed.weight": torch.zeros(8, DIM),
            "decoder_blocks.0.norm1.weight": torch.zeros(8),
            "mask_token": torch.zeros(1, 1, 8),
        }
    torch.save({"model": state, "args": argparse.Namespace(blr=1.5e-4)}, tmp_path / "mae.pth")
    target = timm_vit(num_classes=10)
    report = load_weights(target, tmp_path / "mae.pth")
    assert report.layout == ("mae" if decoder else "timm")
    assert report.missing == ("head.weight", "head.bias")
    assert any("fc_norm" in note for note in report.notes) == (norm == "fc_norm")
    torch.testing.assert_close(target.forward_features(images), source.forward_features(images), **CLOSE)


def hf(name: str, **options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIZE,
        "patch_size": PATCH,
    }
    if not name.startswith("Dinov2"):
        sizes |= {"intermediate_size": 4 * DIM}
    config = getattr(transformers, f"{name}Config")(**(sizes | options))
    return shake(getattr(transformers, f"{name}Model")(config))


HF_REG = {"num_register_tokens": 4}
HF_CASES = [
    ("Dinov2WithRegisters", HF_REG, lambda: timm_vit(**REG)),
    ("Dinov2WithRegisters", HF_REG | {"use_swiglu_ffn": True}, lambda: timm_vit(**REG, **SWIGLU)),
    ("Dinov2", {}, lambda: timm_vit(init_values=1e-5)),
    ("ViT", {"layer_norm_eps": 1e-6}, timm_vit),
    ("CLIPVision", {"hidden_act": "gelu"}, lambda: timm_vit(pre_norm=True, norm_layer=nn.LayerNorm)),
]


@pytest.mark.parametrize(("name", "options", "target"), HF_CASES)
@pytest.mark.parametrize("names", ["saved", "in memory"])
def test_transformers_files_of_both_generations_give_the_same_tokens(name, options, target, names, images, tmp_path):
    source = hf(name, **options)
    if names == "saved":
        source.save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
    else:
        file = tmp_path / "memory.pth"
        torch.save(source.state_dict(), file)
    target = target()
    layout = load_weights(target, file).layout
    assert layout in ("transformers-4", "transformers-5")
    if name == "Dinov2WithRegisters":
        assert layout == {"saved": "transformers-4", "in memory": "transformers-5"}[names]
    hidden = source(images).last_hidden_state
    if name == "CLIPVision":  # its final norm is applied to the pooled token only
        hidden = F.layer_norm(hidden, (DIM,), source.post_layernorm.weight, source.post_layernorm.bias)
    torch.testing.assert_close(target.forward_features(images), hidden, **CLOSE)
    # back into its own library, from timm's names and from its own
    for state in (target.state_dict(), None):
        again = hf(name, **options)
        with torch.no_grad():
            for value in again.parameters():
                value.zero_()
        if state is not None:
            torch.save(state, tmp_path / "timm.pth")
        load_weights(again, file if state is None else tmp_path / "timm.pth")
        torch.testing.assert_close(again(images).last_hidden_state, source(images).last_hidden_state, **CLOSE)


def test_a_transformers_classifier_file_loads_without_its_prefix(images, tmp_path):
    transformers = pytest.importorskip("transformers")
    backbone = hf("Dinov2WithRegisters", **HF_REG)
    model = transformers.Dinov2WithRegistersForImageClassification(backbone.config)
    model.dinov2_with_registers.load_state_dict(backbone.state_dict())
    model.save_pretrained(tmp_path)
    target = timm_vit(**REG)
    report = load_weights(target, tmp_path / "model.safetensors")
    assert {"classifier.weight", "classifier.bias"} <= set(report.unexpected)
    torch.testing.assert_close(target.forward_features(images), backbone(images).last_hidden_state, **CLOSE)
    # into the same kind of model the classifier goes along
    again = transformers.Dinov2WithRegistersForImageClassification(backbone.config)
    load_weights(again, tmp_path / "model.safetensors")
    torch.testing.assert_close(again.classifier.weight, model.classifier.weight)


def test_an_open_clip_file_gives_the_same_tokens(images, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    towers = {
        "vision_cfg": {
            "layers": DEPTH,
            "width": DIM,
            "head_width": DIM // HEADS,
            "patch_size": PATCH,
            "image_size": SIZE,
        }
    }
    towers["text_cfg"] = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    clip = shake(open_clip.CLIP(embed_dim=16, **towers))
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in clip.state_dict().items()}},
        tmp_path / "clip.pt",
    )
    target = timm_vit(pre_norm=True, norm_layer=nn.LayerNorm, num_classes=16)
    report = load_weights(target, tmp_path / "clip.pt")
    assert report.layout == "openclip"
    assert report.missing == ("head.bias",)  # CLIP's projection has none
    torch.nn.init.zeros_(target.head.bias)
    torch.testing.assert_close(target(images), clip.visual(images), **CLOSE)
    again = open_clip.CLIP(embed_dim=16, **towers).eval()
    load_weights(again.visual, tmp_path / "clip.pt", strict=True)
    torch.testing.assert_close(again.visual(images), clip.visual(images), **CLOSE)
    torch.save(target.state_dict(), tmp_path / "timm.pth")
    third = open_clip.CLIP(embed_dim=16, **towers).eval()
    load_weights(third.visual, tmp_path / "timm.pth")
    torch.testing.assert_close(third.visual(images), clip.visual(images), **CLOSE)


def test_torchvision_and_timm_exchange_weights(images, tmp_path):
    from torchvision.models import VisionTransformer as TorchvisionViT

    source = shake(TorchvisionViT(SIZE, PATCH, DEPTH, HEADS, DIM, 4 * DIM, num_classes=5))
    save_file(source.state_dict(), tmp_path / "tv.safetensors")
    target = timm_vit(num_classes=5)
    assert load_weights(target, tmp_path / "tv.safetensors", strict=True).layout == "torchvision"
    torch.testing.assert_close(target(images), source(images), **CLOSE)
    torch.save(target.state_dict(), tmp_path / "timm.pth")
    again = TorchvisionViT(SIZE, PATCH, DEPTH, HEADS, DIM, 4 * DIM, num_classes=5).eval()
    load_weights(again, tmp_path / "timm.pth", strict=True)
    torch.testing.assert_close(again(images), source(images), **CLOSE)
