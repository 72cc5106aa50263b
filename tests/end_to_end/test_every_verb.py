"""Every verb and every task of `eval` runs from the command line on data the suite makes, and leaves what it names.

A verb or task without a case here fails `test_no_verb_and_no_task_is_left_out`.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitreg.cli import VERBS
from vitreg.verbs.demo import verb as demo
from vitreg.verbs.eval.registry import TASKS

from .made import QUICK, SMALL

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures", "small_lab")


# verb -> its words, where {out} is a folder of the test's own and the other names are made by `made`
CASES = {
    "look": ("{photographs}", "-m", "{model}", "--limit", "2", "--no-show", "--out", "{out}", "{small}"),
    "explore": ("{photographs}", "-m", "{model}", "--limit", "2", "--blocks", "1", "--out", "{out}", "{small}"),
    "scan": ("{model}", "{photographs}", "--limit", "4", "--out", "{out}", "{small}", "{quick}"),
    "compare": ("{scanned}", "{scanned}", "--out", "{out}/page.html"),
    "maps": ("{model}", "{photographs}", "--limit", "2", "--out", "{out}", "{small}"),
    "doctor": ("{model}",),
    "eval": ("planted:clean", "complexity", "--registers", "0", "4", "--out", "{out}"),
    "discover": ("{model}", "voc2012:{voc}@val", "--limit", "2", "--out", "{out}", "{small}"),
    "extract": ("{model}", "{photographs}", "--limit", "4", "--out", "{out}", "{small}"),
    "train": ("--config", "{settings}", "--out", "{out}/run", "--run.duration", "4 steps"),
    "curves": ("{run}", "--out", "{out}"),
    "draw": ("{scanned}", "--out", "{out}"),
    "export": ("{run}", "--to", "safetensors", "--out", "{out}/model.safetensors"),
    "repairs": (
        "{model}",
        "{photographs}",
        "--methods",
        "none,test-time",
        "--limit",
        "5",
        "--force",
        "--no-controls",
        "--out",
        "{out}",
        "{small}",
    ),
    "fix": (
        "test-time",
        "{model}",
        "{photographs}",
        "--neurons",
        "6",
        "--limit",
        "12",
        "--out",
        "{out}",
        "{small}",
        "--force",
    ),
    "reproduce": (
        "fig3",
        "fig12",
        "-m",
        "{model}",
        "--images",
        "{photographs}",
        "--limit",
        "4",
        "--out",
        "{out}",
        "{small}",
    ),
    "lab": ("born", "--registers", "1", "--steps", "4", "--out", "{out}"),
    "zoo": (
        "{photographs}",
        "-m",
        "{model}",
        "-m",
        "{scanned}",
        "--limit",
        "4",
        "--out",
        "{out}",
        "{small}",
        "{quick}",
    ),
    "demo": ("--out", "{out}"),
    "version": (),
}
LEAVES = {
    "look": "*-look.png", "explore": "data/p0m0-b1.js",
    "scan": "result.json", "compare": "page.html", "maps": "*.png", "eval": "result.json", "discover": "result.json",
    "extract": "*", "train": "run/model.safetensors", "curves": "*.html", "draw": "report.html", "export": "model.safetensors",
    "fix": "repair.json", "repairs": "table.csv", "demo": "index.html", "reproduce": "claims.json",
    "zoo": "board.csv", "lab": "report.html",
}  # fmt: skip
OPENS = {
    "look",
    "explore",
    "scan",
    "compare",
    "maps",
    "eval",
    "discover",
    "curves",
    "draw",
    "fix",
    "repairs",
    "reproduce",
    "lab",
    "zoo",
    "demo",
}
"""Verbs that end with a page or picture to open."""
EVALUATIONS = {
    "knn": ("{model}", "knn", "{classes}", "--k", "3"),
    "linear": ("{model}", "linear", "{classes}", "--steps", "4", "--batch", "8"),
    "logistic": ("{model}", "logistic", "{classes}"),
    "segmentation": ("{model}", "segmentation", "{dense}", "--steps", "2"),
    "depth": ("{model}", "depth", "{dense}", "--depth-scale", "0.05", "--steps", "2"),
    "zeroshot": ("run:{clip}", "zeroshot", "{classes}"),
    "retrieval": ("run:{clip}", "retrieval", "{captions}"),
    "tokens": ("{model}", "tokens", "{classes}"),
    "position": ("{model}", "position", "{photographs}"),
    "pixels": ("{model}", "pixels", "{photographs}"),
    "controls": ("{model}", "controls", "{classes}"),
    "causal": ("{model}", "causal", "{photographs}", "--limit", "9", "--twin", "planted:clean"),
    "complexity": ("{model}", "complexity", "--registers", "0", "4"),
}
SHARES = {"knn", "linear", "logistic", "zeroshot", "retrieval", "tokens", "position"}  # of right answers
RESAMPLED = {"causal", "controls", "pixels"}  # images, for intervals of other numbers


def words_of(case, made, out):
    words = [part for word in case for part in {"{small}": SMALL, "{quick}": QUICK}.get(word, (word,))]
    return [word.format(**made, out=out) for word in words]


def test_no_verb_and_no_task_is_left_out():
    assert set(CASES) == set(VERBS)
    assert set(EVALUATIONS) == set(TASKS)


@pytest.mark.parametrize("verb", CASES)
def test_a_verb_does_its_work(vitreg, made, tmp_path, monkeypatch, verb):
    monkeypatch.setattr(demo, "PHOTOGRAPHS", demo.CANDIDATES)  # and a crop of each
    monkeypatch.setattr(demo, "_crops", lambda image, crops=demo._crops: crops(image)[:2])
    monkeypatch.setattr(demo, "born", lambda whole=demo.born: replace(whole(), images=["synthetic:retrieval@0:8"]))
    done = vitreg(verb, *words_of(CASES[verb], made, tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if verb in LEAVES:
        assert [path for path in tmp_path.glob(LEAVES[verb]) if not path.name.startswith(".")]
    if verb in OPENS:
        word, _, opened = done.stdout.rstrip().rpartition("\n")[2].partition(" ")
        assert word == "Open"
        assert Path(opened).is_file()


@pytest.mark.slow
def test_every_link_of_the_demo_leads_to_a_file(vitreg, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PHOTOGRAPHS", demo.CANDIDATES)
    assert vitreg("demo", "--out", tmp_path).returncode == 0
    text = (tmp_path / "index.html").read_text()
    links = [each for each in re.findall(r'href="([^"]+)"', text) if not each.startswith(("#", "data:"))]
    assert len(links) == 4 + 2  # reports and comparisons
    assert all((tmp_path / each).is_file() for each in links)
    assert [text.index(f"<strong>{act}</strong>") for act in ("born", "natural", "planted")]


def test_maps_say_that_they_draw_some_of_the_images_and_the_reason_of_the_precision_once(vitreg, made, tmp_path):
    several = ",".join((str(made["model"]), "planted:clean"))
    done = vitreg("maps", several, made["photographs"], "--what", "norm", "--limit", "2", "--out", tmp_path, *SMALL)
    there = len(list(made["photographs"].iterdir()))
    assert f"Drew the first 2 of {there} images; --limit {there} draws all of them." in done.stdout
    assert done.stdout.count("Precision") == 1
    all_of_them = ("--limit", "99", "--what", "norm", "--precision", "fp32", "--out", tmp_path, *SMALL)
    assert "Drew the first" not in vitreg("maps", made["model"], made["photographs"], *all_of_them).stdout


def test_a_scan_says_its_precision_once_and_after_the_verdict(vitreg, made, tmp_path):
    said = vitreg("scan", made["model"], made["photographs"], "--limit", "2", "--out", tmp_path, *SMALL).stdout
    assert said.count("Precision") == 1
    assert said.index("Verdict:") < said.index("Precision")


@pytest.mark.parametrize("task", EVALUATIONS)
def test_a_task_does_its_work(vitreg, made, tmp_path, task):
    shared = ("--out", tmp_path / "out", "--features", tmp_path / "features", "--workers", "1")
    size = SMALL if "clip" not in EVALUATIONS[task][0] else ()
    done = vitreg("eval", *words_of(EVALUATIONS[task], made, tmp_path), *shared, *size)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["task"] == task
    assert result["undrawn"] == []
    assert "interval" in (tmp_path / "out" / "report.html").read_text()
    assert np.isfinite(result["metrics"][result["headline"]])
    assert set(result["units"]) == set(result["metrics"])
    assert bool(result["intervals"]) == (task in {*SHARES, *RESAMPLED})
    for name, (low, high) in result["intervals"].items():
        assert low <= result["metrics"][name] <= high
        assert task in RESAMPLED or 0 <= low <= high <= 100
        assert f"{low:.3g} to {high:.3g} {result['units'][name]}".rstrip() in done.stdout


OF_A_RUN = {
    "scan": ("{run}", "{photographs}", "--limit", "2", "--out", "{out}", "{small}", "{quick}"),
    "doctor": ("{run}",),
    "eval": ("{run}", "complexity", "--registers", "0", "4", "--out", "{out}"),
    "curves": ("{run}", "--out", "{out}"),
    "export": ("{run}", "--to", "safetensors", "--out", "{out}/model.safetensors"),
    "train": ("--resume", "{run}"),
}


@pytest.mark.parametrize("prefix", ["", "run:"])
@pytest.mark.parametrize("verb", OF_A_RUN)
def test_a_run_is_named_by_its_folder_with_or_without_a_prefix(vitreg, made, tmp_path, verb, prefix):
    done = vitreg(verb, *words_of(OF_A_RUN[verb], {**made, "run": f"{prefix}{made['run']}"}, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
