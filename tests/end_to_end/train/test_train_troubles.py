"""Data, disks and losses that go wrong on the way: what is said, and what is left."""

import io
import json
import shutil
import tarfile

import pytest
from PIL import Image

from tests.end_to_end import tiny_run
from tests.end_to_end.conftest import one_sentence
from vitreg.errors import UserError
from vitreg.training import checkpoint

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
