"""Folders and repositories in the form of timm are loaded by timm, or refused in a sentence."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from vitreg.backbones.loading.load import load
from vitreg.errors import UserError


@pytest.mark.parametrize("random", [False, True])
def test_a_folder_in_the_form_of_timm_is_loaded_by_timm(tmp_path, random):
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)
    config = {
        "architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"img_size": 32, "depth": 2},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load(f"timm:local-dir:{tmp_path}", random=random, precision="fp32")
    assert (loaded.depth, loaded.preprocess.size, loaded.preprocess.mean) == (2, (32, 32), (0.1, 0.2, 0.3))
    images = torch.randn(2, 3, 32, 32)
    same = torch.allclose(loaded(images).values, model.eval().forward_features(images), atol=1e-5)
    assert same == (not random)


@pytest.mark.parametrize(
    ("config", "spec", "message"),
    [
        (None, "timm:local-dir:{}", "has no config.json, so it is no folder of a timm model"),
        ({"model_type": "dinov2"}, "timm:local-dir:{}", "names no architecture of timm. Did you mean 'hf:"),
        ({"schema": "vitreg.run/1"}, "timm:local-dir:{}", "names no architecture of timm. Did you mean 'run:"),
        ({"architecture": "vit_tinny_patch16_224"}, "timm:local-dir:{}", "Did you mean 'vit_tiny_patch16_224'"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"depht": 2}}, "timm:local-dir:{}", "timm cannot build"),
        ({"architecture": "vit_tiny_patch16_224"}, "timm:local-dir:{}", "timm cannot build .*No suitable checkpoints"),
        ({"architecture": "resnet18"}, "timm:local-dir:{}", "ResNet is not a Vision Transformer"),
        ({"architecture": "vit_tiny_patch16_224"}, "{}", "Did you mean 'timm:local-dir:"),
        ({"architecture": "vit_tiny_patch16_224"}, "local-dir:{}", "Did you mean 'timm:local-dir:"),
        (None, "timm:local-dri:{}", "Did you mean 'local-dir:'"),
        (None, "timm:local-dir:", "names no folder"),
    ],
)  # fmt: skip
def test_a_folder_that_timm_cannot_build_is_one_sentence(tmp_path, config, spec, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        load(spec.format(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_repository_in_the_form_of_timm_is_asked_of_the_hub(monkeypatch):
    asked = []

    def create_model(name, pretrained=False, **_):
        asked.append((name, pretrained))
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(UserError, match="could not fetch the weights of timm:hf-hub:someone/a-vit"):
        load("timm:hf-hub:someone/a-vit")
    assert asked == [("hf-hub:someone/a-vit", False)]  # its settings, before any weights
