"""Weights files: what is resampled, tolerated or refused, and nothing unsafe or wrong gets in."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.unit.backbones.weights.hub_vit import DEPTH, REG, HubViT, chunked, shake, timm_vit
from torch import nn

from vitreg.backbones.loading.load import load
from vitreg.backbones.weights.into_module import load_state, load_weights, read_checkpoint, sha256_of_weights
from vitreg.backbones.weights.names import recognise, to_canonical
from vitreg.errors import UserError
from vitreg.models.posembed import resample_positions


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


@pytest.mark.parametrize(("file", "model"), [((4, 4), (2, 8)), ((2, 8), (4, 4))])
def test_a_table_that_may_have_another_grid_is_never_taken_in_silence(file, model, tmp_path):
    """The file does not tell 2*8 from 4*4: what it was taken for, and what else it may be, is said."""
    size = {grid: tuple(8 * side for side in grid) for grid in (file, model)}
    torch.save(shake(timm_vit(img_size=size[file])).state_dict(), tmp_path / "w.pth")
    notes = load(timm_vit(img_size=size[model]), weights=tmp_path / "w.pth", weights_size=size[file]).notes
    own, also = (f"{rows}*{cols}" for rows, cols in (model, file))
    assert notes == (f"w.pth has positions for 16 patches, taken as the model's own {own}; {also} are as many.",)
    # `set_input_size` of timm resamples a table on its way to another grid of as many patches.
    moved = timm_vit(img_size=size[file])
    before = moved.pos_embed.detach().clone()
    moved.set_input_size(img_size=size[model])
    assert moved.pos_embed.shape == before.shape
    assert not torch.allclose(moved.pos_embed, before)


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
