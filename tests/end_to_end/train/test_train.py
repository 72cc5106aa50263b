"""`vitreg train` as a user runs it: what it leaves, and that it goes on where it was stopped, with the same settings and data only."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.end_to_end import tiny_run
from tests.end_to_end.conftest import one_sentence
from vitreg.training import claim

from .interrupted import end_of


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


@pytest.mark.usefixtures("undrawn")
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
