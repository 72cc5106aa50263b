"""Settings, checkpoints and runs that version 0.1.0 wrote are opened: the fixtures were written by it."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.contracts.recipes.tiny_recipes import CLASSES
from tests.end_to_end import tiny_run

import vitreg
from vitreg.config import decode, encode
from vitreg.models.parts.switches import USUAL
from vitreg.presets import preset
from vitreg.training import checkpoint
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.build import build_recipe
from vitreg.verbs.train.verb import train

FIXTURES = Path(__file__).parent / "fixtures"
SETTINGS = json.loads((FIXTURES / "settings_of_0.1.0.json").read_text())
# Added since; what was written before lacks them, and they have their defaults.
ADDED = {
    "model": {"base": None, "base_weights": None, "register_attention": "softmax", "cls_token": True, **asdict(USUAL)},
    "run": {"watch_maps": 0, "until": None, "until_more": "0 steps"},
}


def with_added(settings):
    return {**settings, **{table: {**values, **settings[table]} for table, values in ADDED.items()}}


def closely(values):
    """Settings as a comparison takes them, without the order of keys."""
    return json.dumps(values, sort_keys=True)


@pytest.mark.parametrize("name", SETTINGS["recipes"])
def test_settings_and_names_of_weights_are_as_they_were(name):
    if name == "clip":
        pytest.importorskip("open_clip", reason="open_clip is not installed")
    written = SETTINGS["recipes"][name]
    config = decode(TrainConfig, written["settings"])
    assert closely(encode(config)) == closely(with_added(written["settings"]))
    state = build_recipe(config, CLASSES).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == written["state"]


@pytest.mark.parametrize("name", SETTINGS["presets"])
def test_presets_are_as_they_were(name):
    assert closely(encode(preset(name))) == closely(with_added(SETTINGS["presets"][name]))


@pytest.fixture
def run(tmp_path):
    """A run of six steps whose last checkpoint, after three, was written when it was killed."""
    folder = tmp_path / "run"
    for name, content in json.loads((FIXTURES / "run_of_0.1.0.json").read_text())["files"].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else base64.b64decode(content["base64"]))
    return folder


def test_a_run_is_opened_and_goes_on_to_the_same_end(run, tmp_path):
    held = load_file(run / "model.safetensors")  # of step 6
    opened = vitreg.load(f"run:{run}", device="cpu", precision="fp32")
    assert torch.equal(opened.module.state_dict()["blocks.0.attn.qkv.weight"], held["blocks.0.attn.qkv.weight"])
    assert checkpoint.load_newest(run).step == 3

    data = tiny_run.pictures(tmp_path / "pictures", classes=2, train=4, val=2, size=12)
    config = decode(TrainConfig, json.loads((run / "config.json").read_text())["train"])
    config = replace(config, data=replace(config.data, root=str(data)))
    shutil.copytree(run, tmp_path / "copy")
    assert train(config, run, resume=True).step == 6
    ended = load_file(run / "model.safetensors")
    assert ended.keys() == held.keys()
    start = checkpoint.load_newest(tmp_path / "copy").model
    for name, value in held.items():
        moved = (value - start[f"vit.{name}"]).norm()
        assert (ended[name] - value).norm() <= 0.05 * moved + 1e-6, (
            name
        )  # JPEGs are decoded and sums made otherwise elsewhere
