"""A model of another library is the backbone of a recipe: trained, killed, resumed, judged, loaded and scanned."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file
from tests.contracts.recipes.tiny_recipes import MODEL, RECIPES, batch_of, build
from tests.end_to_end import tiny_run

import vitreg
from vitreg.config import decode
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.recipes.foreign import ForeignNetwork
from vitreg.recipes.parameters import group_parameters
from vitreg.recipes.settings import OptimConfig
from vitreg.testing import check_recipe
from vitreg.training import checkpoint
from vitreg.training.settings import TrainConfig
from vitreg.verbs.export.verb import export
from vitreg.verbs.train.checks import check_values
from vitreg.verbs.train.dry_run import dry_run
from vitreg.verbs.train.verb import train

BASE = "timm:test_vit"  # six blocks of 64 channels
FOREIGN = ModelConfig(base=BASE, base_weights="random", image_size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_run.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def config(data):
    settings = {
        **tiny_run.SETTINGS,
        "model": {"base": BASE, "base_weights": "random", "image_size": 32},
        "data": {"root": str(data), "workers": 0},
        "optim": {"lr": 0.01, "layer_decay": 0.9, "patch_embed_lr": 0.5},
    }
    return decode(TrainConfig, settings)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train(config, folder).reason == "done"
    return folder


def test_a_run_keeps_the_base_and_what_was_trained_of_it(finished):
    model = json.loads((finished / "config.json").read_text())["model"]
    untrained = vitreg.load(BASE, random=True, device="cpu", precision="fp32")
    assert model == {
        "base": BASE, "base_weights": "random", "base_sha256": untrained.weights_sha256, "image_size": 32, "pool": "cls",
        "num_classes": 3,
    }  # fmt: skip
    kept = load_file(finished / "model.safetensors")
    own = untrained.module.state_dict()
    assert {name for name in kept if name not in own} == {"run_head.weight", "run_head.bias"}
    assert {name for name in own if name not in kept} == {
        "head.weight",
        "head.bias",
    }  # timm's, which features do not pass
    assert all(not torch.equal(kept[name], own[name]) for name in own if name in kept)


def test_loading_gives_the_trained_model_back(finished):
    backbone = vitreg.load(f"run:{finished}", device="cpu", precision="fp32")
    kept = load_file(finished / "model.safetensors")
    own = backbone.module.state_dict()
    assert type(backbone.module).__module__.startswith("timm.")
    assert all(torch.equal(own[name], value) for name, value in kept.items() if not name.startswith("run_"))
    untrained = vitreg.load(BASE, random=True, device="cpu", precision="fp32").module.state_dict()
    assert torch.equal(own["head.weight"], untrained["head.weight"])
    assert backbone.prepared().size == (32, 32)
    last = checkpoint.load_newest(finished).model
    assert torch.equal(last["average.network.module.blocks.1.attn.qkv.weight"], own["blocks.1.attn.qkv.weight"])
    images = torch.rand(2, 3, 32, 32)
    found = vitreg.scan(backbone, images)
    assert len(found.layers) == 6


def test_a_run_that_is_killed_and_resumed_ends_as_the_uninterrupted_one(config, finished, tmp_path, monkeypatch):
    run, done = tmp_path / "run", 0

    def save_and_die(*arguments, **named):
        nonlocal done
        path = saved(*arguments, **named)
        done += 1
        if done == 2:
            raise KeyboardInterrupt
        return path

    saved = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(config, run)
    monkeypatch.undo()
    assert 0 < checkpoint.load_newest(run).step < 12
    assert train(config, run, resume=True).step == 12
    tiny_run.assert_same_run(run, finished)
    evaluated = [line for line in tiny_run.records(run) if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluated] == [4, 8, 12]


def test_a_run_goes_on_from_a_run_as_its_base(config, finished, tmp_path):
    model = replace(config.model, base=f"run:{finished}", base_weights=None)
    again = replace(config, model=model, run=replace(config.run, duration="2 steps", watch_images=0))
    assert train(again, tmp_path / "run").reason == "done"
    backbone = vitreg.load(f"run:{tmp_path / 'run'}", device="cpu")
    assert backbone.depth == 6


def test_other_weights_of_the_base_are_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace('"base_sha256": "', '"base_sha256": "0'))
    with pytest.raises(UserError, match="are not those that the run"):
        vitreg.load(f"run:{tmp_path / 'run'}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": RECIPES["mae"]}, ["mae hides patches from the encoder", "run.start_from timm:test_vit"]),
        ({"recipe": RECIPES["dinov2 softmax"]}, ["dinov2 hides patches from the student"]),
        ({"model": replace(FOREIGN, drop_path=0.1)}, ["model.drop_path is for vitreg's own ViT"]),
        ({"model": replace(FOREIGN, base="hub:a/b:c")}, ["runs the code"]),
        ({"model": replace(FOREIGN, base="tim:test_vit")}, ["Did you mean 'timm:test_vit'"]),
        ({"model": replace(FOREIGN, base=None)}, ["model.base_weights are of a model.base"]),
        ({"run": {"start_from": BASE}}, ["model.base and run.start_from"]),
        ({"run": {"checkpoint_activations": True}}, ["run.checkpoint_activations is for vitreg's own"]),
    ],
)
def test_what_needs_our_own_vit_is_refused_in_a_sentence(config, change, words):
    changed = {key: replace(config.run, **value) if key == "run" else value for key, value in change.items()}
    with pytest.raises(UserError) as error:
        check_values(replace(config, **changed))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_the_trained_model_is_exported_to_its_own_library(finished, tmp_path):
    export(finished, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        found = model.forward_features(images)
    wanted = vitreg.load(f"run:{finished}", device="cpu", precision="fp32")(images).values
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="is a model of timm, and transformers has none of this form"):
        export(finished, "hf", tmp_path / "hf")


def test_a_dry_run_counts_the_parameters_of_the_base(config):
    said: list[str] = []
    dry_run(replace(config, run=replace(config.run, watch_images=0)), said.append)
    assert any("M parameters in the backbone" in line for line in said)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in ("supervised ema", "clip", "dino")])
def test_recipes_keep_their_promises_with_a_base(name):
    if name == "clip":
        pytest.importorskip("open_clip", reason="open_clip is not installed")
    recipe = RECIPES[name]
    found = check_recipe(lambda: build(recipe, FOREIGN), lambda step: batch_of(recipe, step))
    assert found["resume"] == found["begin with"] == found["parts"] == "held"


def transformers_vit():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
        )
    )


def test_layers_of_other_libraries_are_counted_from_the_output():
    network = ForeignNetwork(transformers_vit(), 32, num_classes=3)
    above = {name: network.layers_above(name) for name, _ in network.named_parameters()}
    first, last = (next(name for name in above if re.search(rf"layers?\.{number}\.", name)) for number in (0, 1))
    assert (above[first], above[last]) == (2, 1)
    assert above["head.weight"] == 0
    assert above[next(name for name in above if re.fullmatch(r"module\.layernorm\.weight", name))] == 0
    assert above[next(name for name in above if name.endswith("cls_token"))] == 3
    groups = group_parameters(torch.nn.ModuleDict({"net": network}), OptimConfig(layer_decay=0.5, patch_embed_lr=0.1))
    rates = {name.removeprefix("net."): group.lr_scale for group in groups for name in group.names}
    assert rates[first] == 0.25
    assert rates["head.weight"] == 1.0
    assert rates[next(name for name in rates if "patch_embeddings" in name)] == pytest.approx(0.1 * 0.5**3)
    assert not any("pooler" in name for name in rates)  # the final tokens do not depend on it
    plain = {name for group in groups if group.decay_scale == 0 for name in group.names}
    assert {"net." + name for name in rates if "position_embeddings" in name} <= plain


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_library_itself_gives_the_same_features_and_gradients(pool):
    module = transformers_vit()
    network = ForeignNetwork(module, 32, pool=pool, num_classes=3)
    images = torch.rand(2, 3, 32, 32)
    tokens = module(images).last_hidden_state
    wanted = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(1)
    assert torch.allclose(network.pooled(network.forward_features(images)), wanted, atol=1e-6)
    weight = network.blocks[0].get_parameter(
        next(n for n, _ in network.blocks[0].named_parameters() if "query" in n or "q_proj" in n)
    )
    (direct,) = torch.autograd.grad(network.head(wanted).square().sum(), weight)
    (ours,) = torch.autograd.grad(network(images).square().sum(), weight)
    assert torch.allclose(direct, ours, atol=1e-6)


def test_a_model_without_a_class_token_needs_the_mean_patch():
    import timm

    module = timm.create_model("test_vit", class_token=False, global_pool="avg")
    with pytest.raises(UserError, match=r"no class token; set model\.pool mean"):
        ForeignNetwork(module, 160)
    network = ForeignNetwork(module, 160, pool="mean", num_classes=2)
    images = torch.rand(1, 3, 160, 160)
    assert torch.allclose(network.pooled(network.forward_features(images)), module.forward_features(images).mean(1))


def test_our_own_settings_are_not_read_beside_a_base():
    one = build(RECIPES["supervised ce"], FOREIGN, seed=0)
    two = build(RECIPES["supervised ce"], replace(MODEL, base=BASE, base_weights="random"), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--model.registers", "8"],
            "--model.registers shapes vitreg's own ViT, and --model.base timm:test_vit is trained",
        ),
        (["--model.drop-path", "0.1"], "--model.drop-path is for vitreg's own ViT, not for --model.base timm:test_vit"),
    ],
)
def test_words_for_our_own_vit_are_refused_beside_a_base(words, said, data):
    from vitreg.cli.verbs.train import run_train

    with pytest.raises(UserError) as error:
        run_train(["deit3-smoke", "--data.root", str(data), "--model.base", BASE, *words])
    assert said in error.value.sentence
