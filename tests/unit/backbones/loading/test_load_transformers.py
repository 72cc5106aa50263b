"""Folders in the form of transformers: which tower is loaded, and that no weights of it are dropped."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from vitreg.backbones.loading.load import load
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.errors import UserError


@pytest.mark.parametrize("kind", ["Dinov2WithRegisters", "ViT", "CLIPVision", "ViTMAE"])
def test_a_transformers_folder_loads(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    backbone = load(f"hf:{tmp_path}", device="cpu", precision="fp32")
    assert backbone.weights_sha256 == sha256_of_weights(model)
    assert any("preprocessor_config.json" in note for note in backbone.notes)
    if kind == "Dinov2WithRegisters":
        images = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(backbone(images).values, model(images).last_hidden_state)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": 24, "width": 32},
        "do_center_crop": True,
        "size": {"shortest_edge": 40},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    prepared = load(f"hf:{tmp_path}", device="cpu").preprocess
    assert (prepared.size, prepared.resize, prepared.interpolation) == ((24, 32), 40, "bilinear")
    assert (prepared.mean, prepared.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert load(f"hf:{tmp_path}", random=True, device="cpu").weights_sha256 != backbone.weights_sha256


def test_the_image_tower_of_a_transformers_clip_model_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 9,
    }
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    backbone = load(f"hf:{tmp_path}", device="cpu", precision="fp32")
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.vision_model(images).last_hidden_state
    norm = backbone.anatomy.final_norm
    torch.testing.assert_close(backbone(images).values, norm(expected))


def test_unsafe_or_incomplete_transformers_folders_are_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = transformers.ViTModel(config)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {k: v for k, v in state.items() if "layernorm_after" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match="lack 4 tensors of the model"):
        load(f"hf:{tmp_path}", device="cpu")
    (tmp_path / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"bomb": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled code"):
        load(f"hf:{tmp_path}", device="cpu")
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(UserError, match="not a model of the installed transformers"):
        load(f"hf:{tmp_path}")
    with pytest.raises(UserError, match="no folder /not/there"):
        load("hf:/not/there")


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"num_hidden_layers": 1}, r"have 16 tensors that the model lacks \((vit\.)?layers\.1"),
        ({"qkv_bias": False}, r"have 6 tensors that the model lacks \((vit\.)?layers\.0\.attention\.k_proj\.bias"),
        ({}, None),
    ],
    ids=["fewer blocks", "no biases", "the truth"],
)
@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"])
def test_a_transformers_config_never_drops_weights_of_the_tower(kind, said, refused, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
    config = transformers.ViTConfig(**sizes, num_hidden_layers=2, patch_size=16)
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    if refused is None:  # heads, decoders and mask tokens are no part of the tower
        assert load(f"hf:{tmp_path}", device="cpu").depth == 2
        return
    with pytest.raises(UserError, match=refused):
        load(f"hf:{tmp_path}", device="cpu")


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_a_config_of_images_and_texts_never_drops_blocks_of_the_image_tower(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    config = getattr(transformers, f"{kind}Config")(
        text_config=sizes | {"vocab_size": 100}, vision_config=sizes | {"image_size": 32, "patch_size": 16}
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    assert load(f"hf:{tmp_path}", device="cpu").depth == 2
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    saved["vision_config"]["num_hidden_layers"] = 1
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="have 16 tensors that the model lacks"):
        load(f"hf:{tmp_path}", device="cpu")
