"""`vitreg train` as a user runs it: what it leaves, what it says of mistakes, and that it goes on where it was stopped."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end import tiny_run
from tests.end_to_end.conftest import one_sentence
from tests.patience import PATIENCE
from vitreg.errors import UserError
from vitreg.training import checkpoint, claim

from .interrupted import end_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_run.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def settings(data, tmp_path_factory):
    return tiny_run.settings_file(tmp_path_factory.mktemp("settings") / "tiny.json", data)


@pytest.fixture(scope="module")
def finished(vitreg, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    done = vitreg("train", "--config", settings, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


def contents(folder: Path):
    """Every file below a folder with its bytes, without the list that says when they were written."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".vitreg.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_run_leaves_a_backbone_records_and_checkpoints(finished):
    out, done = finished
    assert done.stdout.splitlines() == [
        f"Done after 12 steps. Look inside: vitreg scan run:{out} IMAGES",
        f"Open {out / 'report.html'}",
    ]
    steps = {kind: [r["step"] for r in tiny_run.records(out) if r["kind"] == kind] for kind in ("train", "evaluation")}
    assert steps == {"train": [2, 4, 6, 8, 10, 12], "evaluation": [4, 8, 12]}
    assert [r["step"] for r in tiny_run.records(out) if r["kind"] == "norms"] == [0, 5, 10, 12]
    judged = {r["step"]: r["top1"] for r in tiny_run.records(out) if r["kind"] == "evaluation"}
    metrics = {path.name: json.loads((path / "state.json").read_text())["metric"] for path in tiny_run.checkpoints(out)}
    assert {"step-00000009", "step-00000012"} <= metrics.keys()  # the newest two
    assert metrics["step-00000009"] is None  # nobody has judged these weights
    best = max(judged, key=lambda step: (judged[step], step))
    assert metrics[f"step-{best:08d}"] == judged[best] == max(judged.values())


def test_scan_looks_into_a_run(vitreg, finished, data, tmp_path):
    done = vitreg("scan", f"run:{finished[0]}", data / "val", "--out", tmp_path / "scan")
    assert done.returncode == 0, done.stderr
    model = json.loads((tmp_path / "scan" / "result.json").read_text())["model"]
    assert model["tokens"]["registers"] == 4


def test_a_second_run_into_the_same_folder_is_refused(vitreg, settings, finished):
    before = contents(finished[0])
    said = one_sentence(vitreg("train", "--config", settings, "--out", finished[0]))
    assert f"--resume {finished[0]}" in said
    assert contents(finished[0]) == before


def test_resuming_a_finished_run_says_so_and_changes_nothing(vitreg, finished):
    before = contents(finished[0])
    done = vitreg("train", "--resume", finished[0])
    assert done.returncode == 0, done.stderr
    assert "was finished before" in done.stderr
    assert contents(finished[0]) == before


def test_killed_and_stopped_then_resumed_is_the_same_run(settings, finished, tmp_path):
    run = tmp_path / "run"
    go_on = ["--resume", str(run)]
    lives = [
        {"doing": "step", "event": 15000, "signal": "SIGKILL", "words": ["--config", str(settings), "--out", str(run)]},
        {"doing": "disk", "event": 15, "signal": "SIGKILL", "words": go_on},  # in a save
        {"doing": "step", "event": 10, "signal": "SIGTERM", "words": go_on},  # before norms are due, which can wait
        {"doing": "look", "event": 10, "signal": "SIGINT", "words": go_on},  # while they are made up for
        {"words": go_on},
    ]
    lives = [{"log": str(tmp_path / f"life{number}.log"), **life} for number, life in enumerate(lives)]
    ends = [end_of(life) for life in lives]
    assert [end["code"] for end in ends] == [-9, -9, 143, 130, 0], ends
    for stopped in ends[2:4]:
        assert stopped["said"].strip().endswith(f"; go on with: vitreg train --resume {run}")
    tiny_run.assert_same_run(run, finished[0])


@pytest.mark.slow
def test_a_model_of_timm_is_killed_and_resumed_to_the_same_end(vitreg, data, tmp_path):
    base = {"base": "timm:test_vit", "base_weights": "random", "drop_path": 0.0}
    settings = tiny_run.settings_file(tmp_path / "settings.json", data, model=base)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert vitreg("train", "--config", settings, "--out", whole).returncode == 0
    lives = [
        {"doing": "step", "event": 8000, "signal": "SIGKILL", "words": ["--config", str(settings), "--out", str(run)]},
        {"doing": "disk", "event": 15, "signal": "SIGKILL", "words": ["--resume", str(run)]},  # in a save
        {"words": ["--resume", str(run)]},
    ]
    ends = [end_of({"log": str(tmp_path / f"life{number}.log"), **life}) for number, life in enumerate(lives)]
    assert [end["code"] for end in ends] == [-9, -9, 0], ends
    tiny_run.assert_same_run(run, whole)
    looked = vitreg("scan", f"run:{run}", data / "val" / "class0", "--out", tmp_path / "scan")
    assert looked.returncode == 0, looked.stderr


def test_a_run_goes_on_with_the_same_settings_only(vitreg, finished, data, tmp_path):
    before = contents(finished[0])
    said = one_sentence(vitreg("train", "--resume", finished[0], "--optim.lr", "0.5", "--model.registers=2"))
    assert "optim.lr: 0.001 -> 0.5" in said
    assert "model.registers: 4 -> 2" in said
    assert f"--run.start-from run:{finished[0]}" in said
    for words in (["deit3-imagenette-cpu"], ["--out", tmp_path]):
        assert "a resumed run has its" in one_sentence(vitreg("train", *words, "--resume", finished[0]))
    for folder in (tmp_path / "nothing", data):
        assert f"{folder} holds no run" in one_sentence(vitreg("train", "--resume", folder))
    assert contents(finished[0]) == before


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


SHORT = ("--run.duration", "7 steps", "--run.watch-images", "0", "--run.evaluate-every", "100%")


def test_a_batch_of_more_images_than_there_are(vitreg, settings, tmp_path):
    words = ["train", "--config", settings, "--out", tmp_path / "run", "--run.batch", "8000000"]
    for more in ([], ["--dry-run"]):
        said = one_sentence(vitreg(*words, *more))
        assert "--run.batch 8000000 is larger than the training set of 48 images" in said
    assert not (tmp_path / "run").exists()


def test_an_empty_class_unreadable_images_and_small_ones(vitreg, settings, tmp_path):
    root = tiny_run.pictures(tmp_path / "data", size=7)  # smaller than the crop of 32 pixels
    (root / "train" / "class3").mkdir()
    bad = [root / "train" / "class0" / "0.jpg", root / "train" / "class2" / "5.jpg"]
    bad[0].write_bytes(b"no picture")
    bad[1].write_bytes(bad[1].read_bytes()[:150])
    out = tmp_path / "run"
    done = vitreg("train", "--config", settings, "--data.root", root, "--out", out, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "1 of 4 classes has no image: 'class3'" in done.stderr
    assert "2 images could not be read, others took their places" in done.stderr
    listed = json.loads((out / "checkpoints" / "step-00000007" / "state.json").read_text())["skipped"]
    assert set(listed) == set(map(str, bad))


def test_shards_cut_short_are_used_as_far_as_they_go(vitreg, settings, tmp_path):
    shard = tmp_path / "train-000.tar"
    with tarfile.open(shard, "w") as tar:
        for number in range(24):
            picture = io.BytesIO()
            Image.new("RGB", (40, 40), (number * 10, 0, 255 - number * 10)).save(picture, "JPEG")
            for name, content in ((f"{number:03}.jpg", picture.getvalue()), (f"{number:03}.cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    done = vitreg("train", "--config", settings, "--data.root", shard, "--out", tmp_path / "run", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "train-000.tar" in done.stderr
    assert "samples were found in it" in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run(vitreg, settings, tmp_path):
    out = tmp_path / "run"
    absurd = (
        "--optim.lr",
        "1e38",
        "--optim.warmup",
        "4 steps",
        "--run.save-every",
        "1 steps",
        "--run.watch-images",
        "0",
    )
    said = one_sentence(vitreg("train", "--config", settings, "--out", out, *absurd))
    assert "the loss or the gradient of step 3 is not finite" in said
    assert "the last good checkpoint is step-00000001" in said  # that of step 2 holds the weights that led here
    assert "start a new run with a smaller --optim.lr" in said
    assert [r["step"] for r in tiny_run.records(out)] == [2]


def test_a_loss_that_is_not_finite_names_the_weights_to_start_from(vitreg, settings, finished, monkeypatch, tmp_path):
    out = tmp_path / "a run"
    shutil.copytree(finished[0], out)
    for name in ("step-00000012", "step-00000008", "step-00000004"):
        shutil.rmtree(out / "checkpoints" / name, ignore_errors=True)
    (out / "model.safetensors").unlink()  # of step 12; those of step 9 are published anew
    finite = iter([True, False])
    monkeypatch.setattr("vitreg.training.fit._Loop._finite", lambda *_: next(finite))
    said = one_sentence(vitreg("train", "--resume", out))
    assert "the last good checkpoint is step-00000009" in said
    assert f"start a new run from it with --run.start-from 'run:{out}' and a smaller --optim.lr" in said


def test_data_that_have_moved_are_the_same(vitreg, finished, data, tmp_path):
    moved = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(data, moved)
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    done = vitreg("train", "--resume", run, "--data.root", moved)
    assert done.returncode == 0, done.stderr
    assert "was finished before" in done.stderr


def other_classes(root):
    (root / "train" / "class1").rename(root / "train" / "cat")
    shutil.rmtree(root / "val")


def fewer_images(root):
    (root / "train" / "class1" / "3.jpg").unlink()


def another_image(root):
    (root / "train" / "class1" / "3.jpg").rename(root / "train" / "class1" / "99.jpg")


def one_more_class(root):
    shutil.copytree(root / "train" / "class1", root / "train" / "dog")


OTHER_DATA = [
    (other_classes, ["other classes: number 0 was 'class0' and is 'cat'"]),
    (one_more_class, ["began with 3 classes", "4 ('class0', 'class1', 'class2' and 1 more)"]),
    (fewer_images, ["began with 48 training samples, and these are 47"]),
    (another_image, ["began with 48 other training samples"]),
]


@pytest.mark.parametrize(("change", "parts"), OTHER_DATA)
def test_a_run_goes_on_with_the_same_data_only(vitreg, finished, data, tmp_path, change, parts):
    shutil.copytree(data, tmp_path / "other")
    change(tmp_path / "other")
    before = contents(finished[0])
    said = one_sentence(vitreg("train", "--resume", finished[0], "--data.root", tmp_path / "other"))
    assert all(part in said for part in parts), said
    assert "--data.root" in said
    assert f"--run.start-from run:{finished[0]}" in said
    assert contents(finished[0]) == before


@pytest.fixture
def old(finished, tmp_path):
    """A run of a version that did not write down what its data were."""
    run = tmp_path / "old"
    shutil.copytree(finished[0], run)
    config = json.loads((run / "config.json").read_text())
    del config["data"], config["step"]
    config["train"]["run"]["duration"] = "2 epochs"
    (run / "config.json").write_text(json.dumps(config))
    return run


def test_a_run_without_a_record_of_its_data_goes_on_with_a_note(vitreg, old, data, tmp_path):
    shutil.copytree(data, tmp_path / "other")
    other_classes(tmp_path / "other")
    said = one_sentence(vitreg("train", "--resume", old, "--data.root", tmp_path / "other"))
    assert "number 0 was 'class0' and is 'cat'" in said  # this much it did write down
    for noted in (True, False):
        done = vitreg("train", "--resume", old)
        assert done.returncode == 0, done.stderr
        assert ("did not write down what its samples were" in done.stderr) == noted


def test_a_checkpoint_beyond_the_end_of_the_plan_is_refused(vitreg, old, data, tmp_path):
    shutil.copytree(data, tmp_path / "other")
    for number in range(8):
        for name in range(3):
            (tmp_path / "other" / "train" / f"class{name}" / f"{number}.jpg").unlink()
    before = contents(old)
    lines = vitreg("train", "--resume", old, "--data.root", tmp_path / "other").stderr.strip().splitlines()
    assert "step-00000012" in lines[-1]
    assert "beyond the end of the run, which has 6 steps with these data" in lines[-1]
    assert contents(old) == before


def test_a_folder_is_trained_in_by_one_process(vitreg, settings, finished, data, monkeypatch, tmp_path):
    monkeypatch.setattr(claim, "PATIENCE", 0)
    before = contents(finished[0])
    holder = claim.Claim(finished[0])
    for words in (["--resume", finished[0]], ["--config", settings, "--out", finished[0]]):
        said = one_sentence(vitreg("train", *words))
        assert f"process {os.getpid()} on {socket.gethostname()} is training in {finished[0]}" in said
    looked = tmp_path / "looked"
    shutil.copytree(finished[0], looked)  # curves writes into the run
    other = claim.Claim(looked)
    for words in (["curves", looked], ["scan", f"run:{looked}", data / "val", "--out", tmp_path / "scan"]):
        done = vitreg(*words)
        assert done.returncode == 0, done.stderr
    other.release()
    holder.release()
    assert contents(finished[0]) == before


@pytest.mark.parametrize("existed", [True, False])
def test_a_start_that_failed_leaves_nothing_and_the_corrected_command_runs(vitreg, settings, data, tmp_path, existed):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    for path in broken.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    out = tmp_path / "runs" / "mine"
    if existed:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("mine")
    short = [*SHORT, "--run.duration", "3 steps"]
    done = vitreg("train", "--config", settings, "--data.root", broken, "--out", out, *short)
    assert done.returncode == 2
    assert "could be read" in done.stderr
    left = [path.name for path in out.iterdir()] if existed else list(tmp_path.glob("runs"))
    assert left == (["notes.txt"] if existed else [])
    done = vitreg("train", "--config", settings, "--out", out, *short)
    assert done.returncode == 0, done.stderr


def test_a_disk_that_is_full_at_the_start_and_at_the_first_checkpoint(vitreg, settings, monkeypatch, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--config", settings, "--out", out, *SHORT, "--run.duration", "3 steps"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        assert "No space left on device" in one_sentence(vitreg(*words))
    assert not out.exists()

    def unsaved(*_):
        raise UserError("cannot write the checkpoint of step 3.")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", unsaved)
        one_sentence(vitreg(*words))
    assert {record["step"] for record in tiny_run.records(out)} == {2, 3}  # what was learned can be looked at
    done = vitreg(*words, "--optim.lr", "2e-3")
    assert done.returncode == 0, done.stderr
    assert "ended before its first checkpoint; beginning anew" in done.stderr
    assert "holds a run already" in one_sentence(vitreg(*words))


def test_what_is_printed_can_be_copied_to_a_shell(vitreg, settings, tmp_path):
    out = tmp_path / "a run"
    words = ["train", "--config", settings, "--out", out]
    done = vitreg(*words, *SHORT, "--run.duration", "3 steps")
    assert done.stdout.splitlines()[0] == f"Done after 3 steps. Look inside: vitreg scan 'run:{out}' IMAGES"
    assert f"--resume '{out}'" in one_sentence(vitreg(*words))


HEADS = {"prototypes": 32, "hidden": 16, "bottleneck": 8, "crops": {"local_crops": 2, "local_size": 16}}
RECIPES = [
    {"kind": "supervised"},
    {"kind": "dinov2", "group": 4, **HEADS, "ibot_prototypes": 32, "ibot_bottleneck": 8},
    {"kind": "dino", "group": 4, **HEADS},
    {"kind": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    {"kind": "clip", "embed_dim": 16, "text_width": 16, "text_heads": 2, "text_layers": 1},
]


@pytest.fixture(scope="module")
def captioned(data):
    rows = [{"image": str(path), "caption": f"a picture of {path.parent.name}"} for path in data.rglob("*.jpg")]
    (data / "captions.json").write_text(json.dumps(rows))
    return data / "captions.json"


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe["kind"] for recipe in RECIPES])
def test_a_dry_run_says_what_a_run_needs_and_leaves_nothing(vitreg, data, captioned, tmp_path, monkeypatch, recipe):
    root = captioned if recipe["kind"] == "clip" else data
    file = tiny_run.settings_file(tmp_path / "s.json", root, recipe=recipe, run={"duration": "3 epochs"})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(temporary)
    done = vitreg("train", "--config", file, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert " steps of 8 images (3.0 epochs of " in lines[0] or recipe["kind"] in ("dinov2", "dino")
    assert "M parameters in the backbone" in lines[1]
    assert lines[2].startswith("Trying 4 steps of 8 images, 8 at once")
    assert lines[3].endswith("GFLOPs per image, forward and backward.")
    assert lines[4].endswith("GiB at the most.")
    assert "images/s: about" in lines[5]
    assert not list(temporary.iterdir())


TOO_SMALL = """
import os, signal, sys
from vitreg.verbs.train import dry_run
dry_run.train = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
from vitreg.__main__ import main
main()
"""


@pytest.mark.slow
def test_a_dry_run_that_is_killed_in_its_first_step_has_said_what_is_known(settings):
    """As a machine without enough memory does it; written to a pipe, where nothing is flushed by itself."""
    words = ["train", "--config", settings, "--dry-run", "--run.micro-batch", "4"]
    done = subprocess.run([sys.executable, "-c", TOO_SMALL, *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    steps, parameters, trying = done.stdout.splitlines()
    assert steps == "12 steps of 8 images (2.0 epochs of 6 steps)."
    assert "M parameters in the backbone" in parameters
    assert trying == "Trying 4 steps of 8 images, 4 at once; should this end here, memory is too small."


@pytest.mark.parametrize("wrong", [["--run.batch", "6"], ["--run.micro-batch", "3"]])
def test_a_dry_run_of_a_batch_that_cannot_be_tries_nothing(vitreg, settings, wrong):
    done = vitreg("train", "--config", settings, "--dry-run", *wrong)
    assert done.returncode == 2
    assert done.stdout == ""


def test_clip_cannot_be_split(vitreg, captioned, tmp_path):
    file = tiny_run.settings_file(tmp_path / "s.json", captioned, recipe=RECIPES[-1], run={"micro_batch": 4})
    said = one_sentence(vitreg("train", "--config", file, "--out", tmp_path / "run"))
    assert "--run.micro-batch 4 would change the loss" in said
    assert not (tmp_path / "run").exists()
