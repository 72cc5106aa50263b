"""Every verb and task that reads images or data reads `synthetic:scenes`, and its record says that it did."""

import json
from pathlib import Path

import pytest

from .made import MODEL, QUICK, SMALL

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures")

SCENES = "synthetic:scenes@7:16"
VERBS = {
    "scan": (MODEL, SCENES, "--limit", "4", *SMALL, *QUICK),
    "maps": (MODEL, SCENES, "--limit", "2", *SMALL, "--what", "norm"),
    "discover": (MODEL, SCENES, "--limit", "4", *SMALL),
    "extract": (MODEL, SCENES, "--limit", "4", *SMALL),
    "repairs": (MODEL, SCENES, "--methods", "none,test-time", "--limit", "5", "--force", "--no-controls", *SMALL),
    "fix": ("test-time", MODEL, SCENES, "--neurons", "6", "--limit", "12", *SMALL, "--force"),
}
EVALUATIONS = {
    "knn": (MODEL, "--k", "3"),
    "linear": (MODEL, "--steps", "4", "--batch", "8"),
    "segmentation": (MODEL, "--steps", "2"),
    "depth": (MODEL, "--steps", "2"),
    "tokens": (MODEL,),
    "position": (MODEL,),
    "zeroshot": ("run:{clip}",),
    "retrieval": ("run:{clip}",),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_reads_them(vitreg, tmp_path, verb):
    done = vitreg(verb, *VERBS[verb], "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    records = [path.read_text() for path in tmp_path.rglob("*.json") if not path.name.startswith(".")]
    if verb in ("scan", "discover", "extract", "repairs"):
        assert any("synthetic" in record for record in records)
    if verb == "discover":
        found = json.loads((tmp_path / "result.json").read_text())
        assert found["corloc"]["images"] == 4
        assert sum("are synthetic" in note for note in found["notes"]) == 1


@pytest.mark.parametrize("task", EVALUATIONS)
def test_a_task_reads_them(vitreg, request, tmp_path, task):
    model, *words = EVALUATIONS[task]
    size = SMALL
    if "{clip}" in model:
        model, size = model.format(clip=request.getfixturevalue("made")["clip"]), ()
    places = ("--out", tmp_path / "out", "--features", tmp_path / "features", "--workers", "1")
    done = vitreg("eval", model, task, SCENES, *words, *size, *places)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["data"]["name"] == SCENES
    assert any("are synthetic" in note for note in record["notes"])
    assert SCENES in (tmp_path / "out" / "report.html").read_text()


def test_a_model_is_trained_on_them(vitreg, made, tmp_path):
    settings = json.loads(Path(made["settings"]).read_text())
    words = ("--data.root", SCENES, "--run.duration", "4 steps")
    done = vitreg("train", "--config", made["settings"], "--out", tmp_path / "run", *words)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert SCENES in json.dumps(config)
    assert SCENES not in json.dumps(settings)


def test_a_name_that_there_is_not_is_refused_with_the_nearest(vitreg, tmp_path):
    for words in (("scan", MODEL, "synthetic:scens"), ("eval", MODEL, "knn", "synthetic:scens")):
        done = vitreg(*words, "--out", tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr == "vitreg: no synthetic set 'scens'. Did you mean 'scenes'?\n"
        assert not (tmp_path / "out").exists()
