"""Every verb and every task of `eval` runs from the command line on data the suite makes, and leaves what it names.

A verb or task without a case here fails `test_no_verb_and_no_task_is_left_out`.
"""

import json

import numpy as np
import pytest
from PIL import Image

from vitreg.cli import VERBS
from vitreg.cli.evaluating import TASKS
from vitreg.verbs import demo

from . import tiny_run

pytestmark = pytest.mark.usefixtures("few_resamples")

MODEL = "planted:high-norm"
SMALL = ("--size", "64")
QUICK = ("--detector", "mad")  # the default fits mixtures to a hundred resamples

# verb -> its words, where {out} is a folder of the test's own and the other names are made by `made`
CASES = {
    "scan": ("{model}", "{photographs}", "--limit", "4", "--out", "{out}", "{small}", "{quick}"),
    "compare": ("{scanned}", "{scanned}", "--out", "{out}/page.html"),
    "maps": ("{model}", "{photographs}", "--limit", "2", "--out", "{out}", "{small}"),
    "doctor": ("{model}",),
    "eval": ("planted:clean", "complexity", "--out", "{out}"),
    "discover": ("{model}", "voc2012:{voc}@val", "--limit", "2", "--out", "{out}", "{small}"),
    "extract": ("{model}", "{photographs}", "--limit", "4", "--out", "{out}", "{small}"),
    "train": ("--config", "{settings}", "--out", "{out}/run", "--run.duration", "4 steps"),
    "curves": ("{run}", "--out", "{out}"),
    "export": ("{run}", "--to", "safetensors", "--out", "{out}/model.safetensors"),
    "demo": ("--out", "{out}"),
    "version": (),
}
LEAVES = {
    "scan": "result.json", "compare": "page.html", "maps": "*.png", "eval": "result.json", "discover": "result.json",
    "extract": "*", "train": "run/model.safetensors", "curves": "*.html", "export": "model.safetensors",
    "demo": "index.html",
}  # fmt: skip
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
    "complexity": ("{model}", "complexity"),
}
SHARES = {"knn", "linear", "logistic", "zeroshot", "retrieval", "tokens", "controls"}  # of right answers


@pytest.fixture(scope="session")
def made(vitreg, photographs, voc, tmp_path_factory):
    """The words that stand in braces above."""
    root = tmp_path_factory.mktemp("made")
    pictures = tiny_run.pictures(root / "classes")
    settings = tiny_run.settings_file(root / "settings.json", pictures)
    clip = {"kind": "clip", "embed_dim": 16, "text_width": 32, "text_heads": 2, "text_layers": 1, "context": 16}
    of_clip = tiny_run.settings_file(
        root / "clip.json", write_captions(root, photographs), recipe=clip, model={"layer_scale": None},
        run={"evaluate_every": "100%", "watch_images": 0},
    )  # fmt: skip
    for name, file in (("run", settings), ("clip", of_clip)):
        done = vitreg("train", "--config", file, "--out", root / name)
        assert done.returncode == 0, done.stderr
    done = vitreg("scan", MODEL, photographs[0].parent, "--limit", "2", "--out", root / "scanned", *SMALL, *QUICK)
    assert done.returncode == 0, done.stderr
    return {
        "model": MODEL, "photographs": photographs[0].parent, "voc": voc, "classes": pictures, "settings": settings,
        "run": root / "run", "clip": root / "clip", "captions": root / "captions.json", "scanned": root / "scanned",
        "dense": write_dense(root / "dense"),
    }  # fmt: skip


def write_captions(root, photographs):
    rows = [
        {"image": str(path), "captions": [f"a photo of {path.stem}"], "split": "train" if number % 3 else "test"}
        for number, path in enumerate(photographs)
    ]
    (root / "captions.json").write_text(json.dumps(rows))
    return root / "captions.json"


def write_dense(root):
    """Write pairs of pictures with masks and with depths: the right half is another class, and farther away."""
    draw = np.random.default_rng(0)
    for side in ("train", "val"):
        for number in range(4):
            right = np.zeros((48, 64), np.uint8)
            right[:, 32:] = 1
            noise = draw.integers(0, 99, (48, 64, 3), np.uint8) + 90 * right[..., None]
            for kind, values in (("images", noise), ("masks", right), ("depths", 40 + 60 * right)):
                (root / side / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / side / kind / f"{number}.png")
    return root


def words_of(case, made, out):
    words = [part for word in case for part in {"{small}": SMALL, "{quick}": QUICK}.get(word, (word,))]
    return [word.format(**made, out=out) for word in words]


def test_no_verb_and_no_task_is_left_out():
    assert set(CASES) == set(VERBS)
    assert set(EVALUATIONS) == set(TASKS)


@pytest.mark.parametrize("verb", CASES)
def test_a_verb_does_its_work(vitreg, made, tmp_path, monkeypatch, verb):
    monkeypatch.setattr(demo, "PHOTOGRAPHS", demo.CANDIDATES)  # and their crops
    done = vitreg(verb, *words_of(CASES[verb], made, tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if verb in LEAVES:
        assert [path for path in tmp_path.glob(LEAVES[verb]) if not path.name.startswith(".")]


@pytest.mark.parametrize("task", EVALUATIONS)
def test_a_task_does_its_work(vitreg, made, tmp_path, task):
    shared = ("--out", tmp_path / "out", "--features", tmp_path / "features", "--workers", "1")
    size = SMALL if "clip" not in EVALUATIONS[task][0] else ()
    done = vitreg("eval", *words_of(EVALUATIONS[task], made, tmp_path), *shared, *size)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["task"] == task
    assert np.isfinite(result["metrics"][result["headline"]])
    assert set(result["units"]) == set(result["metrics"])
    assert bool(result["intervals"]) == (task in SHARES)
    for name, (low, high) in result["intervals"].items():
        assert 0 <= low <= result["metrics"][name] <= high <= 100
        assert f"{low:.3g} to {high:.3g} %" in done.stdout


OF_A_RUN = {
    "scan": ("{run}", "{photographs}", "--limit", "2", "--out", "{out}", "{small}", "{quick}"),
    "doctor": ("{run}",),
    "eval": ("{run}", "complexity", "--out", "{out}"),
    "curves": ("{run}", "--out", "{out}"),
    "export": ("{run}", "--to", "safetensors", "--out", "{out}/model.safetensors"),
    "train": ("--resume", "{run}"),
}


@pytest.mark.parametrize("prefix", ["", "run:"])
@pytest.mark.parametrize("verb", OF_A_RUN)
def test_a_run_is_named_by_its_folder_with_or_without_a_prefix(vitreg, made, tmp_path, verb, prefix):
    done = vitreg(verb, *words_of(OF_A_RUN[verb], {**made, "run": f"{prefix}{made['run']}"}, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
