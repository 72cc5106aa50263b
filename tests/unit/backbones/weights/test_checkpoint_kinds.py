"""The forms in which weights come from training: wrapped, cut into parts, with adapters; all load alike or are named."""

import json

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitreg.backbones.loading.load import load
from vitreg.backbones.weights.into_module import load_weights, read_vit
from vitreg.errors import UserError

IMAGES = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
        return VisionTransformer(**(settings | options)).eval()


def renamed(state, rename):
    return {rename(key): value for key, value in state.items()}


def inside_blocks(*wrappers):
    """Put wrappers behind the number of each block."""
    return lambda key: (
        ".".join([*key.split(".")[:2], *wrappers, *key.split(".")[2:]]) if key.startswith("blocks.") else key
    )


WRAPPED = {
    "compiled blocks": inside_blocks("_orig_mod"),
    "checkpointed blocks": inside_blocks("_checkpoint_wrapped_module"),
    "FSDP blocks": inside_blocks("_fsdp_wrapped_module"),
    "FairScale blocks": inside_blocks("_fsdp_wrapped_module", "_fpw_module"),
    "blocks in DDP": inside_blocks("module"),
    "several": inside_blocks("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"),
    "attention only": lambda key: key.replace(".attn.", ".attn._orig_mod."),
    "patch projection": lambda key: key.replace("patch_embed.proj.", "patch_embed._orig_mod.proj.module."),
    "everything": lambda key: f"module._orig_mod.{inside_blocks('_orig_mod')(key)}",
    "backbone of a teacher": lambda key: f"teacher.module.backbone.{inside_blocks('_orig_mod', 'module')(key)}",
}


@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_in_the_names_of_a_file_make_no_difference(rename, tmp_path):
    source, target = vit(1), vit(2)
    save_file(renamed(source.state_dict(), rename), tmp_path / "w.safetensors")
    report = load_weights(target, tmp_path / "w.safetensors", strict=True)
    assert not report.missing
    assert not report.unexpected
    assert torch.equal(target.forward_features(IMAGES), source.forward_features(IMAGES))
    tensors, _ = read_vit(tmp_path / "w.safetensors")
    assert set(tensors) == set(source.state_dict())


class Sharded(nn.Module):
    """Wraps a block as FSDP does: under this name, and the block's attributes still answer."""

    def __init__(self, block):
        super().__init__()
        self._fsdp_wrapped_module = block

    def forward(self, *args, **kwargs):
        return self._fsdp_wrapped_module(*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["_fsdp_wrapped_module"], name)


class Parallel(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.module = block

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def checkpointed(block):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(block)


WRAPPERS = {
    "compiled": lambda block: torch.compile(block, backend="eager"),
    "checkpointed": checkpointed,
    "sharded": Sharded,
    "parallel": Parallel,
    "sharded and compiled": lambda block: torch.compile(Sharded(block), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_plain_file_loads_into_a_module_whose_blocks_are_wrapped(wrap, tmp_path):
    source, target = vit(1), vit(2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    bare = list(target.blocks)
    target.blocks = nn.Sequential(*(wrap(block) for block in bare))
    report = load_weights(target, tmp_path / "w.safetensors", strict=True)
    assert not report.missing
    target.blocks = nn.Sequential(*bare)
    assert torch.equal(target.forward_features(IMAGES), source.forward_features(IMAGES))


@pytest.mark.parametrize("wrap", [checkpointed, Sharded], ids=["checkpointed", "sharded"])
def test_a_model_with_wrapped_blocks_is_loaded_and_looked_into(wrap, tmp_path):
    source, target = vit(1), vit(2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    target.blocks = nn.Sequential(*(wrap(block) for block in target.blocks))
    backbone = load(target, weights=tmp_path / "w.safetensors", precision="fp32")
    torch.testing.assert_close(backbone(IMAGES).values, source.forward_features(IMAGES))
    assert backbone.attention_status().readable


def test_a_part_that_is_truly_called_module_keeps_its_name(tmp_path):
    def own(seed):
        model = vit(seed)
        for block in model.blocks:
            block.attn.proj = Parallel(block.attn.proj)
            block.attn.proj.gain = nn.Parameter(torch.randn(1))  # so `module` does not stand alone
        return model

    source, target = own(1), own(2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors", strict=True)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


# Weights in several files


def write_shards(folder, state, suffix, index_name):
    keys = list(state)
    places = {}
    for number in range(3):
        name = f"model-{number + 1:05d}-of-00003.{suffix}"
        part = {key: state[key] for key in keys[number::3]}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / index_name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder / index_name


@pytest.mark.parametrize("by", ["index", "folder"])
@pytest.mark.parametrize(
    ("suffix", "name"), [("safetensors", "model.safetensors.index.json"), ("bin", "pytorch_model.bin.index.json")]
)
def test_weights_in_several_files_load_by_their_index_or_their_folder(suffix, name, by, tmp_path):
    source, target = vit(1), vit(2)
    index = write_shards(tmp_path, source.state_dict(), suffix, name)
    load_weights(target, index if by == "index" else tmp_path, strict=True)
    assert torch.equal(target.forward_features(IMAGES), source.forward_features(IMAGES))


def test_one_part_of_several_names_the_index(tmp_path):
    index = write_shards(tmp_path, vit().state_dict(), "safetensors", "model.safetensors.index.json")
    with pytest.raises(UserError, match=r"one part of weights .* name their index, model\.safetensors\.index\.json"):
        load_weights(vit(), tmp_path / "model-00001-of-00003.safetensors")
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00003\.safetensors, missing"):
        load_weights(vit(), index)


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path):
    index = write_shards(tmp_path, vit().state_dict(), "bin", "pytorch_model.bin.index.json")
    torch.save({}, tmp_path / "model-00001-of-00003.bin")
    with pytest.raises(UserError, match=r"model-00001-of-00003\.bin lacks cls_token, which .* says is there"):
        load_weights(vit(), index)


def test_an_index_that_leads_out_of_its_folder_is_not_followed(tmp_path):
    save_file(vit().state_dict(), tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    places = dict.fromkeys(vit().state_dict(), "../secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match="outside its folder"):
        load_weights(vit(), folder)


def test_a_distributed_checkpoint_names_the_converter_which_makes_what_loads(tmp_path):
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    source, target = vit(1), vit(2)
    save({"model": source.state_dict()}, checkpoint_id=str(tmp_path / "step"), no_dist=True)
    for path in (tmp_path / "step", next((tmp_path / "step").glob("*.distcp"))):
        with pytest.raises(UserError, match=r"python -m torch\.distributed\.checkpoint\.format_utils dcp_to_torch"):
            load_weights(target, path)
    dcp_to_torch_save(tmp_path / "step", tmp_path / "weights.pth")
    load_weights(target, tmp_path / "weights.pth", strict=True)
    assert torch.equal(target.forward_features(IMAGES), source.forward_features(IMAGES))


# What stands beside weights


ADAPTERS = {
    "adapter only": {"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.randn(4, 32)},
    "within the model": vit().state_dict() | {"blocks.0.attn.qkv.lora_B.default.weight": torch.randn(96, 4)},
    "with base layers": {
        key.replace(".qkv.", ".qkv.base_layer."): value for key, value in vit().state_dict().items()
    } | {"blocks.0.attn.qkv.lora_A.default.weight": torch.randn(4, 32)},
    "scales": vit().state_dict() | {"blocks.0.mlp.fc1.ia3_l": torch.randn(1, 32)},
}  # fmt: skip


@pytest.mark.parametrize("state", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_that_is_not_merged_is_named(state, tmp_path):
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match=r"adapter\.safetensors holds an adapter .* merge the adapter first"):
        load_weights(vit(), tmp_path / "adapter.safetensors", allow_partial=True)
    with pytest.raises(UserError, match="merge the adapter first"):
        read_vit(tmp_path / "adapter.safetensors")


QUANTISED = (
    "SCB",
    "weight_format",
    "weight.absmax",
    "weight.quant_state.bitsandbytes__nf4",
    "qweight",
    "qzeros",
    "g_idx",
)


@pytest.mark.parametrize("leaf", QUANTISED)
def test_quantised_weights_are_named_by_what_stands_beside_them(leaf, tmp_path):
    save_file(vit().state_dict() | {f"blocks.0.attn.qkv.{leaf}": torch.zeros(96)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors holds quantised weights"):
        load_weights(vit(), tmp_path / "w.safetensors", allow_partial=True)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.complex64, torch.uint8, torch.int64])
@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.weight", "patch_embed.proj.bias", "pos_embed", "cls_token"])
def test_weights_that_are_no_floating_point_numbers_are_refused(name, dtype, tmp_path):
    state = vit().state_dict()
    torch.save(state | {name: state[name].to(dtype)}, tmp_path / "w.pth")
    for read in (lambda path: load_weights(vit(), path, allow_partial=True), read_vit):
        with pytest.raises(UserError, match=f"w.pth holds {name} as {str(dtype)[6:]}; weights are floating point"):
            read(tmp_path / "w.pth")


def test_whole_numbers_that_are_no_weights_go_through(tmp_path):
    torch.save(
        vit(1).state_dict() | {"position_ids": torch.arange(17)[None], "steps": torch.tensor(3)}, tmp_path / "w.pth"
    )
    report = load_weights(vit(2), tmp_path / "w.pth", allow_partial=True)
    assert not report.missing


# Blocks that no file filled


def test_a_partial_load_is_offered_for_single_tensors_and_never_for_blocks(tmp_path):
    state = vit().state_dict()
    torch.save({k: v for k, v in state.items() if k != "blocks.1.norm1.bias"}, tmp_path / "single.pth")
    with pytest.raises(UserError, match="allow a partial load"):
        load_weights(vit(), tmp_path / "single.pth")
    torch.save({k: v for k, v in state.items() if not k.startswith("blocks.1.")}, tmp_path / "hole.pth")
    torch.save(vit(depth=2).state_dict(), tmp_path / "short.pth")
    torch.save(vit(depth=4).state_dict(), tmp_path / "long.pth")
    for name, count in (("hole", 2), ("short", 2), ("long", 4)):
        with pytest.raises(UserError, match=f"{name}.pth .* depth {count} .*, the model .* depth 3 ") as caught:
            load_weights(vit(), tmp_path / f"{name}.pth")
        assert "partial" not in str(caught.value)


def test_what_a_partial_load_left_at_random_is_in_the_report(tmp_path):
    torch.save(vit(depth=2).state_dict(), tmp_path / "short.pth")
    report = load_weights(vit(), tmp_path / "short.pth", allow_partial=True)
    assert {name.split(".")[1] for name in report.untrained} == {"2"}
    headless = load_weights(vit(num_classes=5), tmp_path / "short.pth", allow_partial=True)
    assert "head.weight" in headless.missing
    assert not any(name.startswith("head") for name in headless.untrained)


def test_a_partial_load_of_more_blocks_than_the_model_has_is_said_first_and_names_stay_as_they_are(tmp_path):
    torch.save(vit(depth=4).state_dict(), tmp_path / "part.pth")
    backbone = load(vit(), weights=tmp_path / "part.pth", allow_partial=True, device="cpu", precision="fp32")
    assert backbone.untrained == backbone.notes[0]
    assert backbone.untrained.startswith("The model leaves out 6 tensors of part.pth")  # biases of zeros are nothing
    assert "part.pth has 4 blocks and the model 3; loaded all the same." in backbone.notes
    torch.save(vit(depth=1).state_dict(), tmp_path / "one.pth")
    with pytest.raises(UserError, match=r"depth 1 .*, the model .* depth 3 "):
        load_weights(vit(), tmp_path / "one.pth")


@pytest.mark.parametrize("name", ["blocks.0.attn.q_bias", "blocks.1.mlp.w12.weight", "register_tokens"])
def test_two_names_for_one_tensor_are_a_contradiction_and_not_the_last_of_them(name, tmp_path):
    state = vit(reg_tokens=2).state_dict()
    torch.save(state | {name: torch.zeros(32)}, tmp_path / "w.pth")
    for read in (lambda path: load_weights(vit(reg_tokens=2), path, allow_partial=True), read_vit):
        with pytest.raises(UserError, match=r"w\.pth contradicts itself: .* are the same tensor"):
            read(tmp_path / "w.pth")


def test_names_with_line_breaks_stay_on_one_line(tmp_path):
    torch.save(vit().state_dict() | {"blocks.0.\n\x1b[2Jnorm": torch.zeros(32)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="1 tensor that the model lacks") as caught:
        load_weights(vit(), tmp_path / "w.pth")
    assert str(caught.value).isprintable()


MISSHAPEN = {
    "patch_embed.proj.weight": torch.tensor(1.0), "cls_token": torch.zeros(32), "pos_embed": torch.zeros(1, 0, 32),
    "blocks.0.attn.qkv.weight": torch.tensor(3.0), "blocks.1.attn.qkv.bias": torch.zeros(5),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSHAPEN)
def test_a_tensor_of_another_shape_is_one_sentence(name, tmp_path):
    torch.save(vit().state_dict() | {name: MISSHAPEN[name]}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth (does not fit the model: .* in the file and|has 0 positions)"):
        load_weights(vit(), tmp_path / "w.pth", allow_partial=True)
