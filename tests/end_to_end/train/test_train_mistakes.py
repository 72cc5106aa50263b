"""What `vitreg train` says of mistakes, before it opens the data."""

import json

import pytest

from tests.end_to_end import tiny_run
from tests.end_to_end.conftest import one_sentence

MISTAKES = [
    ("--model.registers -1", ["model.registers is -1", "0 or more"]),
    ("--model.regsters 4", ["--model.regsters", "--model.registers"]),
    ("--model.registers four", ["model.registers", "integer", "'four'"]),
    ("--model.registers", ["--model.registers takes one value, not 0"]),
    ("--model.registers 1 2", ["--model.registers takes one value, not 2"]),
    ("--run.precision fp17", ["run.precision", "'fp32'", "'fp17'"]),
    ("--model.image_size 100", ["image_size of 100", "8-pixel patch", "96 is"]),
    ("--model.image-size 100", ["image_size of 100", "8-pixel patch", "96 is"]),
    ("--model.size XXL", ["'XXL'", "Known"]),
    ("--model.heads 3", ["width of 32", "3 heads"]),
    ("--model.drop-path 1", ["model.drop_path is 1", "less than 1"]),
    ("--run.batch 10", ["--run.batch 10 is no multiple of 4", "nearest batch is 8"]),
    ("--run.batch 0", ["run.batch is 0"]),
    ("--run.micro-batch 3", ["--run.micro-batch 3", "whole groups of 4"]),
    ("--run.duration 10parsecs", ["run.duration", "'parsecs'", "epochs"]),
    ("--run.duration 10%", ["run.duration", "10% of itself"]),
    ("--run.duration 0", ["run.duration is '0'", "at least one step"]),
    ("--run.save-every often", ["run.save_every", "'often'"]),
    ("--optim.lr=nan", ["optim.lr is nan"]),
    ("--optim.betas 0.9 1.5", ["optim.betas is 1.5"]),
    ("--optim.betas 0.9", ["optim.betas"]),
    ("--run.device tpu", ["'tpu'", "cpu"]),
    ("--data.workers -1", ["data.workers is -1"]),
    ("--recipe.mix.prob 3", ["prob", "between 0 and 1"]),
    ("--recipe.kind clipp", ["recipe", "'clipp'", "'clip'"]),
    ("--run.seed 99999999999999999999", ["run.seed is 99999999999999999999", "at most 9223372036854775807"]),
    ("--model.layer-scale nan", ["model.layer_scale is nan", "more than 0"]),
    ("--model.layer-scale=-1", ["model.layer_scale is -1"]),
    ("--recipe.mix.smoothing inf", ["smoothing"]),
    ("--out=", ["--out is empty"]),
]


@pytest.mark.parametrize(("words", "parts"), MISTAKES)
def test_a_mistake_is_named_before_the_data_are_opened(vitreg, settings, tmp_path, words, parts):
    out = tmp_path / "run"
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "note.txt").write_text("no image")  # opened, it would be a mistake of its own
    data = ("--data.root", tmp_path / "nothing")
    said = one_sentence(vitreg("train", "--config", settings, *data, "--out", out, *words.split()))
    assert all(part in said for part in parts), said
    assert not out.exists()


@pytest.mark.parametrize(
    ("recipe", "run", "parts"),
    [
        ({"kind": "dinov2", "group": 1, "masks": {"share": 0.3}}, {}, ["mask share of 0.3 of 2 crops hides nothing"]),
        ({"kind": "dinov2", "group": 1}, {}, ["recipe.group is 1"]),
        ({"kind": "dinov2", "group": 4, "crops": {"local_size": 18}}, {}, ["local_size 18", "8-pixel", "16 is"]),
        ({"kind": "mae", "mask_ratio": 0.999}, {}, ["hiding 0.999 of 16 patches"]),
        ({"kind": "mae", "mask_ratio": 2}, {}, ["mask_ratio"]),
        ({"kind": "clip", "context": 1}, {}, ["recipe.context is 1", "3 or more"]),
        ({"kind": "supervised"}, {"batch": True}, ["run.batch", "number", "True"]),
        ({"kind": "clip", "text_heads": 3, "text_width": 64}, {}, ["64 channels", "3 heads"]),
        ({"kind": "dino", "group": 3}, {}, ["no multiple of 3"]),
    ],
)
def test_draws_that_cannot_be_made_are_refused_before_the_data_are_opened(vitreg, tmp_path, recipe, run, parts):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "note.txt").write_text("no image")
    file = tiny_run.settings_file(tmp_path / "s.json", tmp_path / "nothing", recipe=recipe, run=run)
    said = one_sentence(vitreg("train", "--config", file, "--out", tmp_path / "run"))
    assert all(part in said for part in parts), said
    assert not (tmp_path / "run").exists()


def test_files_of_settings_and_names_of_presets(vitreg, settings, tmp_path):
    broken, unknown = tmp_path / "broken.toml", tmp_path / "unknown.json"
    broken.write_text("[model\nsize='T'")
    unknown.write_text(json.dumps({"model": {"regsters": 4}}))
    for words, parts in (
        (["--config", tmp_path / "none.toml"], ["cannot read", "none.toml"]),
        (["--config", tmp_path], ["cannot read", "directory"]),
        (["--config", broken], ["broken.toml is no valid TOML"]),
        (["--config", unknown], ["unknown.json", "'model.regsters'", "'model.registers'"]),
        (["--config"], ["--config needs a value"]),
        (["deit3-b16-in1"], ["no preset 'deit3-b16-in1'", "'deit3-b16-in1k'"]),
        (["deit3-b16-in1k-reg99999"], ["99999 registers"]),
        (["--config", settings, "--data.root", ""], ["--data.root"]),
        (["--config", settings, "--data.root", tmp_path / "none"], [f"no file or folder '{tmp_path / 'none'}'"]),
        (["--config", settings, "--out", settings], ["is a file; name a folder"]),
    ):
        said = one_sentence(vitreg("train", *([] if "--out" in words else ["--out", tmp_path / "run"]), *words))
        assert all(part in said for part in parts), said
    assert not (tmp_path / "run").exists()


def test_data_of_one_class_and_data_without_captions(vitreg, settings, data, tmp_path):
    one = tiny_run.pictures(tmp_path / "one", classes=1, train=8)
    said = one_sentence(vitreg("train", "--config", settings, "--data.root", one, "--out", tmp_path / "run"))
    assert "all 8 images are of one class, 'class0'" in said
    file = tiny_run.settings_file(tmp_path / "s.json", data, recipe={"kind": "clip"})
    assert "has no captions" in one_sentence(vitreg("train", "--config", file, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
