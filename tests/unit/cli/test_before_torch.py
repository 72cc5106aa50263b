"""What no model is needed for is refused before torch is imported: at once, also on a busy machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from vitreg.cli import VERBS
from vitreg.verbs.eval.registry import TASKS

RUN = """
import contextlib, io, json, sys
from unittest import mock

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "transformers"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, NoTorch())
from vitreg.__main__ import main

said = []
for words in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["vitreg", *words]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except AssertionError as error:
            err.write(str(error))
    said.append([code, err.getvalue(), out.getvalue()])
json.dump(said, sys.stdout)
"""
"""Runs many command lines in one process that cannot import torch."""

MODEL = "timm:vit_tiny_patch16_224"
MISTAKES = {
    "scna": "no verb 'scna'",
    "scan x y --sise 3": "no flag '--sise'",
    "scan tim:x photos": "no source 'tim:' of models. Did you mean 'timm:x'?",
    "scan run:nowhere photos": "no folder of a vitreg run 'nowhere'",
    f"scan {MODEL} fotos": "no file or folder 'fotos'. Did you mean 'photos'?",
    f"scan {MODEL} nothing-like-it/at/all": "no file or folder 'nothing-like-it/at/all'.",
    f"scan {MODEL} photos/qqqqqqqq": "no file or folder 'photos/qqqqqqqq'; the nearest that exists is 'photos'.",
    f"scan {MODEL} empty": "the folder 'empty' is empty.",
    f"scan {MODEL} fot*": "nothing matches 'fot*'.",
    f"scan {MODEL} photos --detector mixtur": "no detector 'mixtur'. Did you mean 'mixture'?",
    f"scan {MODEL} photos --size 12a": "--size takes an image size such as 518 or 384x512 (height x width), not '12a'",
    f"scan {MODEL} photos --size 0": "--size 0 is no image size",
    f"doctor -m {MODEL} -m {MODEL}": "vitreg doctor takes one model, not 2; run it once for each.",
    "scan photos -m": "-m needs a model",
    f"fix test-tim {MODEL} photos": "no repair 'test-tim' in vitreg fix. Did you mean 'test-time'?",
    f"fix test-time {MODEL} photos --registers 0": "--registers must be at least 1, not 0.",
    f"fix test-time {MODEL} photos --repair photos": "photos holds no repair.json, so it is no repair",
    "scan fixed:nowhere photos": "no folder of a repair 'nowhere'",
    f"scan {MODEL} photos --limit 0": "--limit must be at least 1, not 0.",
    f"scan {MODEL} photos --seed -1": "--seed must be at least 0, not -1.",
    f"scan {MODEL} photos --fail-above 2": "--fail-above is a share between 0 and 1, not 2.",
    f"scan {MODEL} photos --device coda": "no device 'coda'. Did you mean 'cuda'?",
    f"scan {MODEL} photos --weights modle.pth": "no weights file 'modle.pth'. Did you mean 'model.pth'?",
    f"scan {MODEL} photos --weights model.pth --random": "weights from a file and random weights exclude each other",
    f"scan {MODEL} photos --out model.pth": "model.pth is a file; name a folder.",
    f"scan {MODEL} fotos --out model.pth": "no file or folder 'fotos'",
    f"scan {MODEL} photos --out mine": "mine/result.json exists",
    f"scan {MODEL} photos --out other": "other holds another result",
    "scan hub:a/b:c photos": "hub:a/b:c runs the code of a/b; add --trust",
    "compare a": "2 to 8 scans are compared, not 1.",
    "compare a b": "a holds no scan",
    "compare a b --out mine/report.html": "a holds no scan",
    f"maps {MODEL} fotos": "no file or folder 'fotos'",
    f"maps {MODEL} fotos --out model.pth": "no file or folder 'fotos'",
    f"maps {MODEL} photos --what nrom": "--what takes attention, heads, registers, pca, rgb or norm, not 'nrom'. Did you mean 'norm'?",
    f"maps {MODEL} photos --layer x": "--layer takes a block such as 7, several as 5,8,11 or 5 8 11, or all, not 'x'",
    f"maps {MODEL} photos --mass 2": "mass is 2; it is a share",
    f"maps {MODEL},{MODEL} photos --weights model.pth": "1 weights for 2 models",
    f"maps {MODEL} photos --out taken": "taken/norm.png",
    f"doctor {MODEL} --weights modle.pth": "no weights file 'modle.pth'",
    f"doctor {MODEL} --device cpu0": "no device 'cpu0'. Did you mean 'cpu'?",
    f"eval {MODEL} knnn photos": "no task 'knnn'. Did you mean 'knn'?",
    f"eval {MODEL} knn": "no data named",
    f"eval {MODEL} knn fotos": "no file or folder 'fotos'",
    f"eval {MODEL} knn fotos --out model.pth": "no file or folder 'fotos'",
    f"eval {MODEL} knn photos --out model.pth": "model.pth is a file; name a folder.",
    f"eval {MODEL} knn photos --k 0": "k must be at least 1",
    f"eval {MODEL} knn photos --k ten": "--k takes whole numbers",
    f"eval {MODEL} position photos --detector mixtur": "no detector 'mixtur'",
    f"eval {MODEL} segmentation photos --steps 0": "steps above 0",
    f"eval {MODEL} logistic photos --c 0": "C must be above 0",
    f"discover {MODEL} fotos": "no file or folder 'fotos'",
    f"discover {MODEL} fotos --out model.pth": "no file or folder 'fotos'",
    f"discover {MODEL} photos --method losst": "no method 'losst'. Did you mean 'lost'?",
    f"discover {MODEL} photos --boxes model.json": "no file or folder of boxes 'model.json'. Did you mean 'model.pth'?",
    f"discover {MODEL} photos --sweep": "a sweep of LOST compares settings by CorLoc",
    f"discover {MODEL} photos --out mine": "mine/result.json",
    f"scan photos {MODEL}": f"'{MODEL}' is a model, and stands among the images; write the model first",
    f"maps {MODEL} {MODEL} photos": "several as one word with commas",
    f"extract {MODEL} fotos": "no file or folder 'fotos'",
    f"extract {MODEL} fotos --out model.pth": "no file or folder 'fotos'",
    f"extract {MODEL} photos --cls none": "no features asked for",
    f"extract {MODEL} photos --cls last": "--cls takes whole numbers, not 'last'",
    f"extract {MODEL} photos --out model.pth": "model.pth is a file; name a folder.",
    "train no-such-preset": "no preset 'no-such-preset'",
    "train deit3-smoke --model.registrs 3": "no setting '--model.registrs'",
    "train deit3-smoke --model.drop-path 2": "model.drop_path is 2",
    "train deit3-smoke --data.root fotos": "no file or folder 'fotos'",
    "train deit3-smoke --data.root photos --out model.pth": "model.pth is a file; name a folder.",
    "train deit3-smoke --data.root photos --out begun": "begun holds a run already; go on with --resume begun",
    "train --resume nowhere": "nowhere holds no run",
    "curves nowhere": "nowhere is no folder of a training run",
    "curves nowhere --out model.pth": "nowhere is no folder of a training run",
    "draw nowhere": "no folder 'nowhere'",
    "draw photos": "photos holds nothing to draw",
    "draw mine": "mine/result.json is no record of vitreg",
    "export nowhere --to timm --out mine": "no folder of a vitreg run 'nowhere'",
    "export nowhere --to timm --out there": "no folder of a vitreg run 'nowhere'",
    "export begun --to tim --out there": "--to takes timm, hf, transformers, safetensors or onnx, not 'tim'. Did you mean 'timm'?",
    "export begun --to timm --out mine": "mine/",
    "export begun --to onnx --out model.pth": "name a file that ends with .onnx",
    f"repairs -m {MODEL} photos --methods none,tset-time": "no method 'tset-time' in vitreg repairs. Did you mean 'test-time'?",
    f"repairs -m {MODEL} photos --methods test-time:registres=2": "no setting 'registres' in test-time. Did you mean 'registers'?",
    f"repairs -m {MODEL} photos --methods none,test-time:registers=0": "--registers must be at least 1, not 0.",
    f"repairs -m {MODEL} photos --masks modle.pth": "no file or folder of masks 'modle.pth'. Did you mean 'model.pth'?",
    f"repairs -m {MODEL} fotos": "no file or folder 'fotos'",
    f"repairs -m {MODEL} -m tim:x photos": "no source 'tim:' of models. Did you mean 'timm:x'?",
    f"repairs -m {MODEL} photos --twin tim:x": "no source 'tim:' of models. Did you mean 'timm:x'?",
    f"repairs -m {MODEL} photos --boxes modle.pth": "no file or folder of boxes 'modle.pth'. Did you mean 'model.pth'?",
    f"repairs -m {MODEL} -m {MODEL} photos --weights model.pth": "--weights belong to one model, not to 2",
    f"repairs -m {MODEL} photos --seed -1": "--seed must be at least 0, not -1.",
    f"repairs -m {MODEL} photos --out mine": "mine/result.json exists",
    f"reproduce fig33 -m {MODEL} --images photos": "no experiment 'fig33' in vitreg reproduce. Did you mean 'fig3'",
    "reproduce fig3 -m tim:x --images photos": "no source 'tim:' of models. Did you mean 'timm:x'?",
    "reproduce fig3 --images fotos": "no file or folder 'fotos'",
    "reproduce --only clams": "--only takes claims or figures, not 'clams'. Did you mean 'claims'?",
    f"repairs -m {MODEL} photos --out other": "other holds another result",
    "look fotos": "no file or folder 'fotos'. Did you mean 'photos'?",
    "look photos -m tim:x": "no source 'tim:' of models. Did you mean 'timm:x'?",
    "look photos --repair mine": "mine holds no repair.json, so it is no repair",
    "look photos --out model.pth": "model.pth is a file; name a folder.",
    "look photos --weights model.pth": "--weights belong to a model; name it with -m.",
    f"look photos --weights model.pth -m {MODEL} -m {MODEL}": "--weights belong to one model, not to 2",
    "look photos --size 0": "--size 0 is no image size",
    "look --no-show": "no photo named; give a file, or - for standard input.",
    f"look {MODEL} photos": f"'{MODEL}' is a model, and stands among the photos; name it with -m {MODEL}.",
    "explore fotos": "no file or folder 'fotos'. Did you mean 'photos'?",
    "explore photos -m tim:x": "no source 'tim:' of models. Did you mean 'timm:x'?",
    "explore photos --out model.pth": "model.pth is a file; name a folder.",
    "explore photos --out mine/report.html": "mine/report.html exists",
    "explore photos --blocks x": "--blocks takes a block such as 7",
    "explore photos --limit 0": "--limit must be at least 1, not 0.",
    "explore --limit 2": "no photo named; give a file, or - for standard input.",
    "explore fotos --serve": "no file or folder 'fotos'. Did you mean 'photos'?",
    "explore --serve --out place": "--serve writes nothing, so it takes no --out.",
    "explore --serve --port 70000": "--port must be from 0 to 65535, not 70000.",
    "explore photos --port 8000": "--port belongs to --serve; add it.",
    "explore photos --no-browser": "--no-browser belongs to --serve; add it.",
    f"zoo fotos -m {MODEL}": "no file or folder 'fotos'. Did you mean 'photos'?",
    "lab bron": "no experiment 'bron' in vitreg lab. Did you mean 'born'?",
    "lab born --out model.pth": "model.pth is a file; name a folder.",
    "lab run": "no design named; give a TOML file, or one of bridge, dissolve, first, later, natural, tiny, toys.",
    "lab run frist": "no file or shipped design 'frist' in vitreg lab run. Did you mean 'first'?",
    "lab run design.toml": "no factor 'registrs' in block 'registrs' of design.toml. Did you mean 'registers'",
    "lab run tiny --processes 0": "--processes is 0; it goes from 1 to 256.",
    "lab run tiny --out mine": "mine/result.json exists",
    "lab report nowhere": "no folder 'nowhere'",
    "lab report photos": "photos holds no design.json; name the --out of a vitreg lab run.",
    "zoo photos": "no model named; name each with -m, such as -m @dinov2",
    f"zoo -m {MODEL}": "no images named",
    "scan vitreg:born": "no images named; give files, a folder or an archive, for example synthetic:retrieval behind the spec.",
    "doctor vitreg:bron": "no shipped model 'bron'. Did you mean 'born'?",
    "zoo photos -m tim:x": "no source 'tim:' of models. Did you mean 'timm:x'?",
    "zoo photos -m @dinov22": "no group 'dinov22' in vitreg zoo. Did you mean 'dinov2'",
    f"zoo photos -m {MODEL} -m": "-m needs a value; repeat it for several.",
    f"zoo photos -m {MODEL} --size 224 --patches 16": "--patches and --size both say how large images are; leave one out.",
    f"zoo photos -m {MODEL} --out mine": "mine/result.json exists",
    f"zoo photos -m {MODEL} --records photos": "photos holds no scan; name a folder that vitreg scan or vitreg zoo wrote.",
    f"zoo photos -m {MODEL} --detector mixtur": "no detector 'mixtur'. Did you mean 'mixture'?",
    "zoo photos --models-file modles.txt": "no file of models 'modles.txt'",
    "zoo --badge photos": "photos holds no scan: its result.json cannot be read",
    "zoo --badge other": "other/result.json is of the schema vitreg.eval/1, and no scan that can be read",
    f"zoo photos -m {MODEL} --badge other": "--badge takes the folder of one scan, and neither images nor models.",
    "demo --kind high": "no planted kind 'high'. Did you mean 'high-norm'?",
    "demo --out model.pth": "model.pth is a file; name a folder.",
}


OF_THE_LAB = ("lab", *(f"lab {experiment} --help" for experiment in ("born", "run", "report")))
HELPS = [
    "--help",
    *OF_THE_LAB,
    *(f"{verb} --help" for verb in VERBS),
    *(f"eval {task} --help" for task in TASKS),
    "train --help",
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What every command line says, in a folder with photographs and places that are taken."""
    place = tmp_path_factory.mktemp("said")
    for folder in ("photos", "empty", "mine", "other", "taken", "begun/checkpoints/step-1"):
        (place / folder).mkdir(parents=True)
    (place / "photos" / "a.png").write_bytes(b"is not opened")
    (place / "model.pth").write_bytes(b"is not opened")
    (place / "design.toml").write_text("seeds = 1\n[[block]]\nfactors = { registrs = [0] }")
    for name in ("mine/report.html", "mine/result.json", "taken/norm.png"):
        (place / name).write_text("not vitreg's")
    (place / "other" / "result.json").write_text('{"schema": "vitreg.eval/1", "task": "knn"}')
    (place / "begun" / "config.json").write_text(json.dumps({"schema": "vitreg.run/1", "model": {}, "train": {}}))
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([words.split() for words in (*MISTAKES, *HELPS)]),
        cwd=place, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert sorted(place.rglob("*")) == before, "a mistake leaves nothing behind"
    return dict(zip((*MISTAKES, *HELPS), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_that_needs_no_model_is_said_without_torch(said, words):
    code, error, out = said[words]
    assert MISTAKES[words] in error
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("vitreg: ")


@pytest.mark.parametrize("words", HELPS)
def test_the_manual_is_shown_without_torch(said, words):
    code, error, out = said[words]
    assert (code, error) == (0, "")
    assert "vitreg" in out


def test_every_verb_has_such_a_mistake():
    assert {words.split()[0] for words in MISTAKES} >= set(VERBS) - {"version"}
