"""`vitreg train --dry-run` says what a run needs, and leaves nothing."""

import importlib
import json
import signal
import subprocess
import sys

import pytest

from tests.end_to_end import tiny_run
from tests.end_to_end.conftest import one_sentence
from tests.patience import PATIENCE

HEADS = {"prototypes": 32, "hidden": 16, "bottleneck": 8, "crops": {"local_crops": 2, "local_size": 16}}
RECIPES = [
    {"kind": "supervised"},
    {"kind": "dinov2", "group": 4, **HEADS, "ibot_prototypes": 32, "ibot_bottleneck": 8},
    {"kind": "dino", "group": 4, **HEADS},
    {"kind": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    {"kind": "clip", "embed_dim": 16, "text_width": 16, "text_heads": 2, "text_layers": 1},
]


@pytest.fixture(scope="module")
def captioned(data, tmp_path_factory):
    rows = [{"image": str(path), "caption": f"a picture of {path.parent.name}"} for path in data.rglob("*.jpg")]
    path = tmp_path_factory.mktemp("captions") / "captions.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe["kind"] for recipe in RECIPES])
def test_a_dry_run_says_what_a_run_needs_and_leaves_nothing(vitreg, data, captioned, tmp_path, monkeypatch, recipe):
    root = captioned if recipe["kind"] == "clip" else data
    file = tiny_run.settings_file(tmp_path / "s.json", root, recipe=recipe, run={"duration": "3 epochs"})
    importlib.import_module("torch._dynamo")  # makes a folder of its own there when it is first imported
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
