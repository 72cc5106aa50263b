"""Starting from weights that are there: the same features, registers added, and one sentence where it cannot be."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitreg.backbones import load
from vitreg.data.views.transforms import IMAGENET
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.models.shape import shape_of
from vitreg.models.vit import VisionTransformer
from vitreg.training.start import start_from

WIDTH, DEPTH, HEADS, SIZE, PATCH = 48, 2, 3, 64, 16


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Noise in every parameter, so that nothing hides behind a zero, a one or a LayerScale of 1e-5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            matrix = parameter.ndim >= 2 and parameter.shape[0] != 1
            std = parameter[0].numel() ** -0.5 if matrix else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def ours(**kwargs) -> VisionTransformer:
    return VisionTransformer(SIZE, PATCH, WIDTH, DEPTH, HEADS, **kwargs)


def of_timm(name: str = "vit_tiny_patch16_224", **kwargs) -> nn.Module:
    small = {"img_size": SIZE, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "patch_size": PATCH}
    return randomised(timm.create_model(name, pretrained=False, **{**small, **kwargs}))


def of_transformers(name: str, config: str, **kwargs) -> nn.Module:
    import transformers

    small = {
        "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "image_size": SIZE, "patch_size": PATCH,
    }  # fmt: skip
    return randomised(getattr(transformers, name)(getattr(transformers, config)(**{**small, **kwargs})))


def of_open_clip() -> nn.Module:
    from open_clip.transformer import VisionTransformer as Tower

    return randomised(Tower(SIZE, PATCH, WIDTH, DEPTH, HEADS, 4.0, output_dim=32))


def of_torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer as Tower

    return randomised(Tower(SIZE, PATCH, DEPTH, HEADS, WIDTH, 4 * WIDTH))


IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(module: nn.Module, images: Tensor = IMAGES) -> Tensor:
    """CLS and patches after the final norm."""
    found = load(module)(images)
    return torch.cat([found.cls[:, None], found.patches], dim=1)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (of_timm, {}),
        (lambda: of_timm("vit_small_patch14_reg4_dinov2"), {"registers": 4, "layer_scale": 1e-4}),
        (lambda: of_timm("deit3_small_patch16_224"), {"layer_scale": 0.1}),
        (lambda: of_timm(qkv_bias=False), {}),
        (lambda: of_timm("vit_giant_patch14_reg4_dinov2"), {"registers": 4, "layer_scale": 1.0, "mlp": "swiglu"}),
        (lambda: of_timm("vit_base_patch16_clip_224"), {"pre_norm": True, "norm_eps": 1e-5}),
        (lambda: of_timm(reg_tokens=3, no_embed_class=False), {"registers": 3}),
        (lambda: of_transformers("ViTModel", "ViTConfig", intermediate_size=4 * WIDTH), {"norm_eps": 1e-12}),
        (lambda: of_transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"), {"registers": 4}),
        (of_open_clip, {"pre_norm": True, "norm_eps": 1e-5}),
        (of_torchvision, {}),
    ],
    ids=["timm", "dinov2", "deit3", "no-bias", "giant", "timm-clip", "embedded", "hf-vit", "hf-dinov2", "openclip", "torchvision"],
)  # fmt: skip
def test_the_features_are_those_of_the_source(build, settings):
    source, network = build(), ours(**settings)
    start_from(network, source)
    torch.testing.assert_close(features(network), features(source), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("positions", [False, True])
def test_added_registers_change_nothing_where_they_are_hidden_and_stay_as_drawn(positions):
    source, network = of_timm(), ours(registers=4, register_positions=positions)
    drawn = network.reg_token.detach().clone()
    notes = start_from(network, source)
    assert torch.equal(network.reg_token, drawn)
    hidden = network.forward_features(IMAGES, registers_kept=torch.zeros(2, 4, dtype=torch.bool))
    torch.testing.assert_close(hidden[:, [0, *range(5, 21)]], source.forward_features(IMAGES), rtol=1e-4, atol=2e-4)
    assert any("the 4 of this model start untrained" in note and "timm #2046" in note for note in notes)
    assert any("with its own registers hidden has the features of" in note for note in notes)


def test_registers_that_both_have_are_copied():
    source = of_timm("vit_small_patch14_reg4_dinov2")
    more, fewer = ours(registers=6, layer_scale=0.1), ours(registers=2, layer_scale=0.1)
    drawn = more.reg_token.detach().clone()
    notes = start_from(more, source)
    assert torch.equal(more.reg_token[:, :4], source.reg_token)
    assert torch.equal(more.reg_token[:, 4:], drawn[:, 4:])
    assert any("4 of the 6 are its own, the other 2 of this model start untrained" in note for note in notes)
    notes = start_from(fewer, source)
    assert torch.equal(fewer.reg_token, source.reg_token[:, :2])
    assert any("has 4 registers and this model 2: the first 2 were copied" in note for note in notes)
    none = ours(layer_scale=0.1)
    assert any("has 4 registers and this model none: what the model" in note for note in start_from(none, source))


def test_a_copied_register_enters_as_in_the_source_where_ours_have_positions():
    source, network = of_timm(reg_tokens=2, no_embed_class=True), ours(registers=2, register_positions=True)
    start_from(network, source)
    torch.testing.assert_close(network.published_state()["reg_token"], source.reg_token.detach())


def test_positions_are_resampled_and_the_one_of_cls_becomes_part_of_it():
    source = of_timm(img_size=96)
    network = ours()
    notes = start_from(network, source)
    torch.testing.assert_close(network.cls_token, source.cls_token + source.pos_embed[:, :1])
    resampled = timm.layers.resample_abs_pos_embed(source.pos_embed[:, 1:], [4, 4], [6, 6], num_prefix_tokens=0)
    torch.testing.assert_close(network.pos_embed, resampled)
    assert any("has 1 + 6*6 positions, the model wants 4*4. Resampled." in note for note in notes)


def test_an_oblong_position_table_is_not_taken_for_a_square_one():
    source, network = of_timm(img_size=(64, 96)), ours()  # 1 + 4*6 positions, which could be 5*5
    start_from(network, source)
    torch.testing.assert_close(network.cls_token, source.cls_token + source.pos_embed[:, :1])


def test_gains_of_layer_scale_are_one_where_the_source_has_none_and_folded_where_ours_has_none():
    plain, scaled = of_timm(), of_timm("deit3_small_patch16_224")
    network = ours(layer_scale=1e-4)
    notes = start_from(network, plain)
    assert torch.equal(network.blocks[1].ls2.gamma, torch.ones(WIDTH))
    assert any("its gains start at 1" in note for note in notes)
    network = ours()
    start_from(network, scaled)
    torch.testing.assert_close(features(network), features(scaled), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("classes", "kept"), [(7, True), (5, False)])
def test_heads_are_kept_where_they_answer_as_many_classes(classes, kept):
    source, network = of_timm(num_classes=7), ours(num_classes=classes)
    fresh = network.head.weight.detach().clone()
    notes = start_from(network, source)
    assert torch.equal(network.head.weight, source.head.weight if kept else fresh)
    said = "The head of" if kept else "has a head for 7 classes and this model one for 5, which starts untrained"
    assert any(said in note for note in notes)


def test_the_projection_of_clip_is_no_head():
    network = ours(pre_norm=True, norm_eps=1e-5, num_classes=32)
    fresh = network.head.weight.detach().clone()
    start_from(network, of_open_clip())
    assert torch.equal(network.head.weight, fresh)


@pytest.mark.parametrize(("numbers", "kept"), [(7, True), (5, False)])
def test_a_head_without_bias_is_kept_too_and_registers_come_beside_it(numbers, kept):
    """The ViT of the lab: nothing in it has a bias, and its head gives numbers."""
    lab = {"bias": False, "positions": "none", "norm": "rmsnorm", "frozen_patch_embed": True, "mlp": "swiglu"}
    source, network = ours(num_classes=7, **lab), ours(num_classes=numbers, registers=4, **lab)
    fresh = network.head.weight.detach().clone()
    notes = start_from(network, randomised(source))
    assert torch.equal(network.head.weight, source.head.weight if kept else fresh)
    said = (
        "for 7 numbers was taken over"
        if kept
        else "has a head for 7 numbers and this model one for 5, which starts untrained"
    )
    assert any(said in note for note in notes)
    assert any(note.startswith("Checked: ") for note in notes)


def hub_file(path: Path, registers: int) -> dict[str, Tensor]:
    """A file as the DINOv2 repository publishes them."""
    state = of_timm("vit_small_patch14_reg4_dinov2").state_dict()
    state["register_tokens"] = state.pop("reg_token")[:, :registers]
    state["pos_embed"] = torch.cat([torch.full((1, 1, WIDTH), 0.25), state["pos_embed"]], dim=1)
    state["mask_token"] = torch.full((1, WIDTH), 0.5)
    if not registers:
        state.pop("register_tokens")
    torch.save(state, path)
    return state


def test_a_file_of_the_dinov2_repository(tmp_path):
    state = hub_file(tmp_path / "hub.pth", 4)
    network = ours(registers=4, layer_scale=1e-5, mask_token=True)
    notes = start_from(network, str(tmp_path / "hub.pth"))
    assert torch.equal(network.cls_token, state["cls_token"] + 0.25)
    assert torch.equal(network.reg_token, state["register_tokens"])
    assert torch.equal(network.mask_token, state["mask_token"])
    assert torch.equal(network.blocks[1].attn.qkv.weight, state["blocks.1.attn.qkv.weight"])
    assert torch.equal(network.blocks[0].ls1.gamma, state["blocks.0.ls1.gamma"])
    assert any("does not say how many attention heads" in note for note in notes)


def test_a_file_does_not_tell_its_heads_but_its_size_does(tmp_path):
    tiny = VisionTransformer(32, 16, 192, 12, 3)
    save_file(tiny.published_state(), tmp_path / "tiny.safetensors")
    with pytest.raises(UserError, match=r"set model\.width 192 model\.heads 3\.$"):
        start_from(VisionTransformer(32, 16, 384, 12, 6), tmp_path / "tiny.safetensors")
    notes = start_from(VisionTransformer(32, 16, 192, 12, 6), tmp_path / "tiny.safetensors")
    assert any("taken are 6, where models of its width and depth have 3 (--model.heads 3)" in note for note in notes)


def test_a_run_and_half_precision(tmp_path):
    source = randomised(ours(registers=4, layer_scale=0.1))
    arguments = {"image_size": SIZE, "patch": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS}
    model = {**arguments, "registers": 4, "layer_scale": 0.1}
    (tmp_path / "config.json").write_text(json.dumps({"schema": "vitreg.run/1", "model": model}))
    save_file(source.published_state(), tmp_path / "model.safetensors")
    network = ours(registers=4, layer_scale=1e-4).bfloat16()
    start_from(network, f"run:{tmp_path}")
    assert network.pos_embed.dtype == torch.bfloat16
    torch.testing.assert_close(network.pos_embed.float(), source.pos_embed, rtol=1e-2, atol=1e-2)


def test_gradients_and_training_flags_stay(tmp_path):
    network = ours(registers=4).train()
    network.pos_embed.requires_grad_(False)
    start_from(network, of_timm())
    assert network.training
    assert not network.pos_embed.requires_grad
    assert network.cls_token.requires_grad


@pytest.mark.parametrize(
    ("build", "settings", "wanted"),
    [
        (lambda: of_timm(embed_dim=96, depth=3), {}, ["--model.width 96", "--model.depth 3"]),
        (lambda: of_timm(num_heads=2), {}, ["--model.heads 2"]),
        (lambda: of_timm(patch_size=8), {}, ["--model.patch 8"]),
        (lambda: of_timm(mlp_ratio=2), {}, ["--model.mlp-ratio 2"]),
        (lambda: of_timm("vit_giant_patch14_reg4_dinov2"), {}, ["--model.mlp swiglu"]),
        (lambda: of_timm("vit_base_patch16_clip_224"), {}, ["--model.pre-norm"]),
        (of_timm, {"pre_norm": True}, ["--model.no-pre-norm"]),
        (lambda: of_timm(qk_norm=True), {}, ["q_norm", "our ViT has no such parts"]),
        (lambda: of_timm("vit_small_patch16_dinov3"), {}, ["no learned table of positions"]),
        (lambda: of_timm(class_token=False, global_pool="avg"), {}, ["cls_token"]),
        (lambda: of_timm("deit_tiny_distilled_patch16_224"), {}, ["dist_token"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_and_changes_nothing(build, settings, wanted):
    network = ours(**settings)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError) as error:
        start_from(network, build())
    assert all(word in error.value.sentence for word in wanted), error.value.sentence
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_named_settings_are_the_ones_that_fit():
    source = of_timm("vit_giant_patch14_reg4_dinov2", embed_dim=96, num_heads=4, mlp_ratio=2.66667 * 2 * 1.5)
    with pytest.raises(UserError) as error:
        start_from(ours(), source)
    words = error.value.sentence.split(" set ")[1].rstrip(".").split()
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    config = ModelConfig(
        width=int(pairs["--model.width"]), depth=DEPTH, heads=int(pairs["--model.heads"]), patch=PATCH, image_size=SIZE,
        mlp=pairs["--model.mlp"], mlp_ratio=float(pairs["--model.mlp-ratio"]),
    )  # fmt: skip
    network = VisionTransformer(**config.arguments())
    assert shape_of(network).hidden == source.blocks[0].mlp.fc2.in_features
    start_from(network, source)


def test_weights_that_mean_something_else_are_told_by_running_them():
    network = ours()
    notes = start_from(network, of_timm(act_layer="quick_gelu"))
    assert any("differ by" in note and "approximation of GELU" in note for note in notes)

    class Otherwise(nn.Module):  # the same tensors, used in another way
        def forward(self, x: Tensor) -> Tensor:
            return -20 * x

    source = of_timm()
    source.pos_drop = Otherwise()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError, match="computes something else than our ViT"):
        start_from(network, source)
    assert torch.equal(network.cls_token, before["cls_token"])


def test_another_epsilon_is_said():
    notes = start_from(ours(), of_torchvision())
    assert not any("epsilon" in note or "norm-eps" in note for note in notes)
    notes = start_from(ours(pre_norm=True), of_open_clip())
    assert any("--model.norm-eps 1e-05 makes them equal" in note for note in notes)


def test_names_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="no weights file"):
        start_from(ours(), str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="Did you mean"):
        start_from(ours(), "timm:vit_tinny_patch16_224")


@pytest.mark.slow
def test_a_real_model_with_four_untrained_registers(test_data):
    """DeiT-Tiny keeps its answers with registers hidden, and most of them with four untrained registers in sight."""
    from PIL import Image

    file = test_data / "models" / "deit_tiny_patch16_224.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    index = json.loads((test_data / "photos" / "imagenet_wnid_to_index.json").read_text())
    photographs = sorted((test_data / "photos").glob("*.jpg"))[::2]
    images = torch.stack([IMAGENET(Image.open(path)) for path in photographs])
    labels = torch.tensor([index[path.name.split("_")[0]] for path in photographs])
    assert len(labels) == 100
    source = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval()
    source.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    torch.manual_seed(0)
    network = VisionTransformer(224, 16, 192, 12, 3, registers=4, num_classes=1000).eval()
    start_from(network, str(file))
    with torch.inference_mode():
        before, after = (torch.cat([net(x) for x in images.split(25)]) for net in (source, network))
        nobody = torch.zeros(10, 4, dtype=torch.bool)
        hidden = network.classify(network.forward_features(images[:10], registers_kept=nobody))
    torch.testing.assert_close(hidden, before[:10], rtol=1e-3, atol=2e-3)
    top1 = [(logits.argmax(1) == labels).float().mean().item() for logits in (before, after)]
    kept = (before.argmax(1) == after.argmax(1)).float().mean().item()
    print(f"top-1 on 100 photographs: {top1[0]:.0%} before, {top1[1]:.0%} with 4 untrained registers, {kept:.0%} same")
    assert top1[0] >= 0.6
    assert kept < 1.0, "registers were added, but nothing changed"
    assert top1[1] >= 0.5 * top1[0]
