"""Folders that look like a run of ours and were written by somebody else: one sentence, whatever is in them."""

import json
import re
import resource
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tests.apart import apart

from vitreg.backbones.loading.load import load
from vitreg.errors import UserError
from vitreg.models.arguments import check_arguments
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer

SMALL = {"image_size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2}


def run_folder(folder, config, weights=True):
    if weights:
        save_file(VisionTransformer(**SMALL).state_dict(), folder / "model.safetensors")
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "config.json").write_bytes(text)
    return f"run:{folder}"


def test_what_the_bounds_let_through_is_built(tmp_path):
    assert load(run_folder(tmp_path, {"schema": "vitreg.run/1", "model": SMALL}), device="cpu").depth == 2


NONSENSE = {
    "patch": [0, -8, 3.5, "8", None, True, [8], [8, 0], [8, 8, 8], 10**30, float("nan"), {"a": 1}],
    "heads": [0, -2, 3, "2", None, 10**9],
    "depth": [0, -1, 10**8, 1.5, "2", None, [2, 2]],
    "width": [0, -32, 10**12, "32", float("inf"), None],
    "image_size": [0, -32, 31, 10**9, [32], [0, 32], "32", [32, "32"]],
    "registers": [-1, 10**10, 0.5, None],
    "register_depth": [-1, 2, 10**9],
    "num_classes": [-1, 10**12],
    "mlp": ["gelu", 3, None, ["mlp"]],
    "pool": ["max", 0],
    "register_attention": ["slot", 0],
    "mlp_ratio": [0, -4, float("nan"), float("inf"), 10**9, "4"],
    "norm_eps": [0, -1, float("nan"), "small"],
    "layer_scale": [-1, float("nan"), "small"],
    "register_init": [-1, float("nan")],
    "cls_token": [1, "yes", None],
    "no_such_setting": [1],
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_number_that_no_model_has_is_named_with_what_it_may_be(name, tmp_path):
    for value in NONSENSE[name]:
        spec = run_folder(tmp_path, {"schema": "vitreg.run/1", "model": SMALL | {name: value}}, weights=False)
        with pytest.raises(UserError, match=r"config\.json does not describe a model: ") as caught:
            load(spec)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_many_patches_of_a_large_image_are_refused():
    with pytest.raises(UserError, match="patches; more than"):
        check_arguments({"image_size": 65536, "patch": 1})


CONFIGS = {
    "no table": b"[]",
    "no model": b'{"schema": "vitreg.run/1"}',
    "model of another kind": b'{"schema": "vitreg.run/1", "model": [1]}',
    "not UTF-8": b'{"schema": "\xff"}',
    "cut off": b'{"schema": "vitreg.run/1", "model": {"wid',
    "nested": b'{"schema": ' * 100_000,
    "a long number": b'{"schema": "vitreg.run/1", "model": {"width": ' + b"9" * 100_000 + b"}}",
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_none_is_one_sentence(text, tmp_path):
    with pytest.raises(UserError, match=r"config\.json") as caught:
        load(run_folder(tmp_path, text))
    assert "\n" not in str(caught.value)


PREPROCESS = [
    3, [], {"size": 224}, {"size": [224, 224]}, {"size": "big", "resize": 1, "mean": 0, "std": 0},
    {"size": [224, 224], "resize": 256, "mean": [0, 0, 0], "std": [0, 0, 0]},
    {"size": [224, 224], "resize": 256, "mean": [0, 0, 0], "std": [1, float("nan"), 1]},
    {"size": [224, 224], "resize": 256, "mean": ["a", 0, 0], "std": [1, 1, 1]},
    {"size": [10**9, 10**9], "resize": 10**9, "mean": [0, 0, 0], "std": [1, 1, 1]},
    {"size": [2.5, 2.5], "resize": 3, "mean": [0, 0, 0], "std": [1, 1, 1]},
    {"size": [224, 224], "resize": 256, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("preprocess", PREPROCESS, ids=range(len(PREPROCESS)))
def test_a_preprocessing_that_is_none_is_one_sentence(preprocess, tmp_path):
    config = {"schema": "vitreg.run/1", "model": SMALL, "preprocess": preprocess}
    with pytest.raises(UserError, match=r"config\.json: its 'preprocess' is not valid \("):
        load(run_folder(tmp_path, config))


def test_a_model_larger_than_its_weights_is_refused_before_memory_is_asked_for(tmp_path):
    run_folder(tmp_path, {"schema": "vitreg.run/1", "model": SMALL | {"width": 16384, "depth": 24, "heads": 128}})

    def refused():
        used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
        with pytest.raises(UserError, match=r"describes a model of .* one of the two is not of this run"):
            load(f"run:{tmp_path}", device="cpu")

    apart(refused)


@pytest.mark.parametrize(
    "settings", [{"heads": 0}, {"depth": 0}, {"width": 0}, {"patch": 0}, {"depth": 10**8}, {"patch": -1}]
)
def test_settings_of_training_have_the_same_bounds(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        ModelConfig(**settings).arguments()


def test_defaults_are_within_bounds():
    for size in "TSBL":
        check_arguments(ModelConfig(size=size).arguments())
