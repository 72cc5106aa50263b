"""Stores, scans, evaluations and checkpoints that vitreg 0.1.0 wrote still open, and say the same."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vitreg
from vitreg.features.store import open_store
from vitreg.records import ScanResult
from vitreg.results import EvalResult

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "v0_1_0"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy in the current folder: the records name the pictures by relative paths."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_they_are_small_and_of_0_1_0():
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 300_000
    for record in ("scan/result.json", "eval/result.json"):
        assert json.loads((OLD / record).read_text())["provenance"]["vitreg"] == "0.1.0"
        assert not (OLD / record).with_name(".vitreg.json").exists()


def test_a_run_is_loaded_and_gives_the_features_that_0_1_0_stored(old):
    (folder,) = (old / "features").iterdir()
    store = open_store(folder, verify=True)
    model = vitreg.load("run:run", device="cpu", precision="fp32")
    now = vitreg.extract(model, "photos/val", out="now", cls=-1, patches=0)
    for name in ("cls/1", "patches/0"):
        # 0.1.0 chose bf16 on the machine that wrote them
        np.testing.assert_allclose(store[name][:], now[name][:], atol=0.05)
    assert store.rows.tolist() == now.rows.tolist()


def test_a_run_is_resumed_from_its_checkpoint_and_ends_where_0_1_0_ended(old):
    ended = load_file(old / "run/model.safetensors")
    shutil.rmtree(old / "run/checkpoints/step-00000004")
    (old / "run/model.safetensors").unlink()
    lines = (old / "run/metrics.jsonl").read_text().splitlines()
    (old / "run/metrics.jsonl").write_text(
        "".join(f"{line}\n" for line in lines if json.loads(line).get("step", 0) <= 2)
    )
    from vitreg.cli.verbs.train import run_train

    assert run_train(["--resume", "run"]) == 0
    again = load_file(old / "run/model.safetensors")
    assert again.keys() == ended.keys()
    for name, values in ended.items():
        torch.testing.assert_close(again[name], values, atol=1e-5, rtol=1e-4)
    assert (old / "run/checkpoints/step-00000004").is_dir()


def test_a_scan_is_read_drawn_and_compared(old):
    result = ScanResult.model_validate_json((old / "scan/result.json").read_bytes())
    assert (result.verdict.kind, result.images.seen) == ("none", 4)
    drawn = vitreg.draw("scan", out="page")
    assert "none" in (old / "page/report.html").read_text()
    assert any("cannot be drawn again" in note for note in drawn.notes)  # 0.1.0 kept no examples beside the page
    now = vitreg.scan("run:run", "photos/val", out="now", device="cpu")
    assert now.verdict.kind == result.verdict.kind
    np.testing.assert_allclose([each.median for each in now.layers], [each.median for each in result.layers], rtol=0.02)
    page = vitreg.compare(["scan", "now"], out="both.html")
    assert "scan" in page.read_text()


def test_an_evaluation_is_read_drawn_and_measured_again(old):
    result = EvalResult.model_validate_json((old / "eval/result.json").read_bytes())
    vitreg.draw("eval", out="page")
    assert os.path.getsize(old / "page/report.html")
    now = vitreg.evaluate("run:run", "knn", "photos", k=1, device="cpu", features=old / "cache")
    assert now.metrics.keys() == result.metrics.keys()
    assert now.data.counts == result.data.counts


def test_the_curves_of_a_run_are_drawn(old):
    assert vitreg.curves("run", out="curves").runs[0].name
    assert (old / "curves/report.html").exists()


def test_places_that_its_documents_named_are_importable():
    from vitreg.exits import Exit
    from vitreg.verbs.curves import read_run
    from vitreg.verbs.evaluate import evaluate
    from vitreg.verbs.extract import extract_features

    assert (evaluate, Exit.DONE, callable(read_run), callable(extract_features)) == (vitreg.evaluate, 0, True, True)
