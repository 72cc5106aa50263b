"""Weights files: every layout gives the same features in every library, and nothing unsafe or wrong gets in."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitreg.backbones.weights.into_module import load_state, load_weights, read_checkpoint, sha256_of_weights
from vitreg.backbones.weights.names import recognise, to_canonical
from vitreg.errors import UserError
from vitreg.models.posembed import resample_positions

DIM, DEPTH, HEADS, SIZE, PATCH = 32, 3, 2, 32, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class HubMlp(nn.Module):
    def __init__(self, gated: bool):
        super().__init__()
        self.gated = gated
        if gated:
            self.w12, self.w3 = nn.Linear(DIM, 2 * 88), nn.Linear(88, DIM)
        else:
            self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.fc2(F.gelu(self.fc1(x)))
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class HubAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class HubScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(DIM))


class HubBlock(nn.Module):
    """One block of the DINOv2 or DeiT-III repository: they differ in the names of LayerScale."""

    def __init__(self, gated: bool, scale: str):
        super().__init__()
        self.scale = scale
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=1e-6), nn.LayerNorm(DIM, eps=1e-6)
        self.attn, self.mlp = HubAttention(), HubMlp(gated)
        if scale == "ls":
            self.ls1, self.ls2 = HubScale(), HubScale()
        elif scale == "gamma":
            self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        scales = {"ls": lambda: (self.ls1.gamma, self.ls2.gamma), "gamma": lambda: (self.gamma_1, self.gamma_2)}
        first, second = scales.get(self.scale, lambda: (1.0, 1.0))()
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class HubPatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, PATCH, PATCH)


class HubViT(nn.Module):
    """A ViT in the shape of the torch.hub repositories, written from their description (token order, names, shapes)."""

    def __init__(
        self, registers: int = 0, gated: bool = False, scale: str = "ls", cls_position: bool = True, mask: bool = True
    ):
        super().__init__()
        self.cls_position = cls_position
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIZE // PATCH) ** 2 + cls_position, DIM))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, DIM)) if registers else None
        if mask:
            self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        self.patch_embed = HubPatches()
        self.blocks = nn.ModuleList(HubBlock(gated, scale) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)
        shake(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat([cls, x], 1) + self.pos_embed if self.cls_position else torch.cat([cls, x + self.pos_embed], 1)
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def shake(module: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that no swap of two tensors goes unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    return module.eval()


def timm_vit(**options) -> VisionTransformer:
    settings = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": DIM,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": 0,
    }
    return VisionTransformer(**(settings | options)).eval()


def chunked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name blocks as FSDP training with one block per chunk does: `blocks.{chunk}.{global index}`."""
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        out[".".join(["blocks", parts[1], *parts[1:]]) if parts[0] == "blocks" else key] = value
    return out


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


SWIGLU = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2 * 88 / DIM}
REG = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}


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


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "eva02_tiny_patch14_224",
        "beit_base_patch16_224",
        "vit_small_patch16_dinov3",
        "deit_tiny_distilled_patch16_224",
        "vit_base_patch16_siglip_224",
    ],
)
def test_timm_files_load_strictly_into_their_own_family(name, tmp_path):
    def build() -> nn.Module:
        return timm.create_model(name, depth=1, embed_dim=96, num_heads=3)

    source, target = shake(build()), build()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth", strict=True)
    assert not report.missing
    assert not report.unexpected
    assert sha256_of_weights(target) == sha256_of_weights(source)


def test_positions_of_another_size_are_resampled_and_this_is_said(tmp_path):
    source, target = HubViT(), timm_vit(img_size=48, init_values=1e-5)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    report = load_weights(target, tmp_path / "weights.pth")
    assert (
        "weights.pth has 1 + 4*4 positions, the model wants 1 + 6*6. Resampled; pass --strict to refuse."
        in report.notes
    )
    assert report.resampled == ((4, 4), (6, 6))
    torch.testing.assert_close(target.pos_embed[:, :1], source.pos_embed[:, :1])
    torch.testing.assert_close(target.pos_embed[:, 1:], resample_positions(source.pos_embed[:, 1:], (4, 4), (6, 6)))
    fresh = timm_vit(img_size=48, init_values=1e-5)
    before = sha256_of_weights(fresh)
    with pytest.raises(UserError, match=r"1 \+ 4\*4 positions, the model wants 1 \+ 6\*6"):
        load_weights(fresh, tmp_path / "weights.pth", strict=True)
    assert sha256_of_weights(fresh) == before


def test_half_precision_files_become_float32(images, tmp_path):
    source = HubViT()
    save_file(
        {key: value.to(torch.bfloat16) for key, value in source.state_dict().items()}, tmp_path / "half.safetensors"
    )
    target = timm_vit(init_values=1e-5)
    load_weights(target, tmp_path / "half.safetensors")
    assert {value.dtype for value in target.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(target.norm.weight, source.norm.weight.bfloat16().float())


def test_registers_on_one_side_only_are_named(tmp_path):
    torch.save(HubViT(registers=4).state_dict(), tmp_path / "reg.pth")
    torch.save(HubViT().state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"reg\.pth \(.*\) is .* with 4 registers, the model .* without registers"):
        load_weights(timm_vit(init_values=1), tmp_path / "reg.pth")
    with pytest.raises(UserError, match=r"plain\.pth \(.*\) is .* without registers, the model .* with 4 registers"):
        load_weights(timm_vit(**REG), tmp_path / "plain.pth")
    report = load_weights(timm_vit(**REG), tmp_path / "plain.pth", allow_partial=True)
    assert report.missing == ("reg_token",)
    assert any("4 registers" in note for note in report.notes)
    with pytest.raises(UserError, match=r"reg_token is \[1, 4, 32\] in the file and \[1, 2, 32\] in the model"):
        load_weights(timm_vit(**(REG | {"reg_tokens": 2})), tmp_path / "reg.pth", allow_partial=True)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ("vit_tiny_patch16_224", "w.pth is a ViT-S/16 without registers, the model a ViT-T/16 without registers"),
        (
            "vit_small_patch14_reg4_dinov2",
            "w.pth is a ViT-S/16 without registers, the model a ViT-S/14 with 4 registers",
        ),
    ],
)
def test_weights_of_another_model_are_named_first_and_in_few_words(model, cause):
    state = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    with pytest.raises(UserError) as error:
        load_state(timm.create_model(model, num_classes=0), state, "w.pth")
    assert cause in str(error.value)
    assert len(str(error.value)) <= 300


def test_wrong_weights_are_listed_by_name_and_change_nothing(tmp_path):
    torch.save(HubViT().state_dict(), tmp_path / "w.pth")
    deep = timm_vit(init_values=1e-5, depth=DEPTH + 1)
    before = sha256_of_weights(deep)
    with pytest.raises(UserError, match=r"lacks 14 tensors of the model \(.*blocks\.3\.norm1\.weight.*and 12 more\)"):
        load_weights(deep, tmp_path / "w.pth")
    assert sha256_of_weights(deep) == before
    assert len(load_weights(deep, tmp_path / "w.pth", allow_partial=True).missing) == 14
    with pytest.raises(UserError, match=r"blocks\.2\.norm1\.weight"):
        load_weights(timm_vit(init_values=1e-5, depth=2), tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"cls_token is \[1, 1, 32\] in the file and \[1, 1, 64\] in the model.* and 46 more"
    ):
        load_weights(timm_vit(init_values=1e-5, embed_dim=64), tmp_path / "w.pth", allow_partial=True)
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight is \[32, 3, 8, 8\] in the file"):
        load_weights(timm_vit(init_values=1e-5, patch_size=4), tmp_path / "w.pth", allow_partial=True)


def test_a_head_of_another_class_count_is_tolerated_unless_strict(tmp_path):
    torch.save(shake(timm_vit(num_classes=7)).state_dict(), tmp_path / "w.pth")
    report = load_weights(timm_vit(num_classes=3), tmp_path / "w.pth")
    assert report.missing == ("head.weight", "head.bias")
    assert any("head" in note and "features do not pass" in note for note in report.notes)
    with pytest.raises(UserError, match=r"head\.weight"):
        load_weights(timm_vit(num_classes=3), tmp_path / "w.pth", strict=True)
    assert not load_weights(timm_vit(num_classes=0), tmp_path / "w.pth", strict=True).missing


class Bomb:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True, "bare pickle"])
def test_pickled_code_never_runs(legacy, tmp_path):
    target, file = tmp_path / "pwned", tmp_path / "evil.pth"
    tree = {"model": {"cls_token": torch.zeros(1)}, "args": Bomb(target)}
    if legacy == "bare pickle":
        file.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(tree, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=r"evil\.pth holds pickled code, which vitreg never runs; re-save it as safetensors"
    ):
        read_checkpoint(file)
    assert not target.exists()
    torch.save(timm_vit(), tmp_path / "module.pth")  # a whole module is code as well
    with pytest.raises(UserError, match="pickled code"):
        read_checkpoint(tmp_path / "module.pth")


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "clip.pt")
    with pytest.raises(UserError, match="TorchScript program"):
        read_checkpoint(tmp_path / "clip.pt")


def test_damaged_files_give_one_sentence(tmp_path):
    torch.save(HubViT().state_dict(), tmp_path / "zip.pth")
    torch.save(HubViT().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(HubViT().state_dict(), tmp_path / "safe.safetensors")
    for name in ("zip.pth", "old.pth", "safe.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for share in (0.0, 0.0005, 0.01, 0.5, 0.99):
            (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(UserError, match=r"^[^\n]*(truncated|empty)[^\n]*$"):
                read_checkpoint(tmp_path / name)
    for text in (b"<html>not found</html>", b"PK\x03\x04junk", b"\x80\x02junk"):
        (tmp_path / "other.pth").write_bytes(text)
        with pytest.raises(UserError, match=r"no (PyTorch )?checkpoint"):
            read_checkpoint(tmp_path / "other.pth")
    (tmp_path / "pointer.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(UserError, match="Git LFS pointer"):
        read_checkpoint(tmp_path / "pointer.safetensors")
    with pytest.raises(UserError, match=r"no weights file .*Did you mean '.*/safe\.safetensors'"):
        read_checkpoint(tmp_path / "safe.safetensor")
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(UserError, match="no state dict"):
        read_checkpoint(tmp_path / "epoch.pth")
    torch.save({"model": {"_flat_param": torch.zeros(3)}}, tmp_path / "model_0.rank_0.pth")
    with pytest.raises(UserError, match="one rank's shard"):
        read_checkpoint(tmp_path / "model_0.rank_0.pth")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="no Vision Transformer"):
        load_weights(timm_vit(), tmp_path / "resnet.pth")


def test_layouts_are_recognised_by_their_keys():
    assert recognise(HubViT(registers=1).state_dict()) == "dinov2"
    assert recognise({f"teacher.backbone.{k}": 0 for k in chunked(HubViT().state_dict())}) == "dinov2-training"
    assert recognise(["visual.conv1.weight", "visual.class_embedding", "visual.proj"]) == "openclip"
    assert recognise(["conv1.weight", "fc.weight"]) is None


def test_a_bias_without_its_middle_part_gets_zeros_and_a_weight_is_refused():
    name = "encoder.layer.0.attention.attention"
    state = {
        "embeddings.cls_token": torch.zeros(1, 1, 2),
        f"{name}.query.bias": torch.ones(2),
        f"{name}.value.bias": torch.ones(2),
    }
    fused = to_canonical(state)[0]["blocks.0.attn.qkv.bias"]
    assert fused.tolist() == [1, 1, 0, 0, 1, 1]
    with pytest.raises(KeyError, match="qkv"):
        to_canonical({"embeddings.cls_token": torch.zeros(1, 1, 2), f"{name}.query.weight": torch.ones(2, 2)})


def test_the_hash_names_the_weights_and_not_their_order():
    model = HubViT()
    turned = nn.Module()
    turned.state_dict = lambda: OrderedDict(reversed(list(model.state_dict().items())))  # type: ignore[method-assign]
    assert sha256_of_weights(turned) == sha256_of_weights(model)
    before = sha256_of_weights(model)
    with torch.no_grad():
        model.norm.bias[0] += 1e-6
    assert sha256_of_weights(model) != before
