"""`vitreg eval` as a user runs it: a small planted model on three classes of noise."""

import json

import numpy as np
import pytest
from PIL import Image

from vitreg.results import EvalResult

from .conftest import one_sentence


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    draw = np.random.default_rng(0)
    for side, count in (("train", 8), ("val", 4)):
        for number, name in enumerate(("dark", "grey", "light")):
            folder = root / side / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.normal(50 + 75 * number, 40, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def knn(vitreg, classes, tmp_path):
    def run(*arguments):
        return vitreg(
            "eval", "planted:clean", "knn", classes, "--k", "3", "--features", tmp_path / "features", *arguments
        )

    return run


def test_the_result_is_written_and_its_protocol_printed(knn, tmp_path):
    done = knn("--out", tmp_path / "out", "--size", "64")
    assert done.returncode == 0, done.stderr
    result = EvalResult.model_validate_json((tmp_path / "out" / "result.json").read_text())
    assert result.headline == "knn3"
    headline = next(line for line in done.stdout.splitlines() if line.endswith("<-"))
    assert headline.split()[:3] == ["knn3", f"{result.metrics['knn3']:.4g}", "%"]
    assert f"precision {result.provenance.precision}" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == f"Open {tmp_path / 'out' / 'report.html'}"
    assert knn("--out", tmp_path / "out", "--size", "64").returncode == 0  # the same again


def test_the_protocol_names_the_size_the_model_sees(knn, tmp_path):
    done = knn("--out", tmp_path / "out", "--size", "70")
    assert "centre crop 70x70, resize to 64x64" in done.stdout


def test_a_result_never_vanishes_under_another(knn, vitreg, tmp_path):
    out = tmp_path / "out"
    assert knn("--out", out).returncode == 0
    before = (out / "result.json").read_text()
    said = one_sentence(vitreg("eval", "planted:clean", "complexity", "--out", out))
    assert "task knn" in said
    assert "name another folder" in said
    (out / "result.json").write_text("{}")
    assert "result.json was changed since vitreg wrote it" in one_sentence(knn("--out", out))
    (out / "result.json").write_text(before)
    assert knn("--out", out).returncode == 0


def test_the_cost_of_registers_is_drawn(vitreg, tmp_path):
    done = vitreg("eval", "planted:clean", "complexity", "--registers", "0", "4", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "complexity.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    assert json.loads((tmp_path / "result.json").read_text())["task"] == "complexity"


def test_a_figure_that_fails_costs_no_numbers(vitreg, tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.report.sheets.cost.cost_figure", lambda *_: 1 / 0)
    done = vitreg("eval", "planted:clean", "complexity", "--registers", "0", "4", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "complexity.png could not be drawn (ZeroDivisionError" in done.stdout
    held = json.loads((tmp_path / "result.json").read_text())
    assert [each["name"] for each in held["undrawn"]] == ["complexity.png"]
    assert held["metrics"]
    assert not (tmp_path / "complexity.png").exists()


def test_what_a_dense_head_says_is_drawn(vitreg, tmp_path):
    draw = np.random.default_rng(0)
    for side in ("train", "val"):
        for number in range(3):
            mask = np.zeros((32, 48), np.uint8)
            mask[:, 24:] = 1
            for kind, values in (
                ("images", draw.integers(0, 99, (32, 48, 3), np.uint8) + 90 * mask[..., None]),
                ("masks", mask),
            ):
                path = tmp_path / "set" / side / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    out = tmp_path / "out"
    done = vitreg(
        "eval",
        "planted:clean",
        "segmentation",
        tmp_path / "set",
        "--steps",
        "3",
        "--features",
        tmp_path / "f",
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(out / "segmentation.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seed", "-1"), "--seed must be at least 0, not -1"),
        (("--temperature", "inf"), "finite"),
        (("--k", "0"), "k must be at least 1"),
        (("--limit", "0"), "limit"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_leaves_no_result(knn, tmp_path, arguments, words):
    assert words in one_sentence(knn("--out", tmp_path / "out", *arguments))
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_scan_never_writes_over_the_result_of_a_task(knn, vitreg, classes, tmp_path):
    out = tmp_path / "out"
    assert knn("--out", out).returncode == 0
    before = (out / "result.json").read_text()
    said = one_sentence(vitreg("scan", "planted:clean", classes, "--out", out))
    assert "vitreg.eval/1" in said
    assert (out / "result.json").read_text() == before
    assert sorted(path.name for path in out.iterdir()) == [".vitreg.json", "report.html", "result.json"]
