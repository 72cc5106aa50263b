"""No verb replaces or removes what vitreg did not write; no result is lost where its folder is."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

from tests.apart import end_of
from vitreg import report
from vitreg.machine.runtime import provenance
from vitreg.records import ScanResult

from .conftest import one_sentence
from .made import MODEL, QUICK, SMALL
from .test_every_verb import CASES, words_of

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures", "forked_lab")

WRITES = (
    "scan",
    "explore",
    "compare",
    "maps",
    "eval",
    "discover",
    "extract",
    "train",
    "curves",
    "export",
    "fix",
    "repairs",
    "reproduce",
    "lab",
    "zoo",
)
SKIPPED = {
    "doctor",
    "version",
    "demo",
    "draw",
    "look",
}  # the first two write nothing, the others have tests of their own
MORE = {"scan": ("--tokens",), "extract": ("--table",)}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate(("teal", "olive", "navy", "maroon")):
        Image.linear_gradient("L").resize((80, 64)).convert("RGB").rotate(number * 20, fillcolor=colour).save(
            folder / f"{number}.png"
        )
    return folder


def files(folder):
    """Everything below a folder that is not hidden."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not any(p[0] == "." for p in name.split("/"))}


def scan(vitreg, images, out, *words):
    return vitreg("scan", MODEL, images, "--out", out, *SMALL, *QUICK, *words)


def seen(out):
    return ScanResult.model_validate_json((out / "result.json").read_text()).images.seen


def test_every_verb_that_writes_is_tried():
    assert set(WRITES) | SKIPPED == set(CASES)


def run_verb(vitreg, made, verb, out):
    return vitreg(verb, *words_of(CASES[verb], made, out), *MORE.get(verb, ()))


@pytest.fixture(scope="module")
def first(vitreg, made, tmp_path_factory):
    """The folder of a verb, made once."""
    root = tmp_path_factory.mktemp("first")

    def folder(verb):
        if not (root / verb).exists():
            assert run_verb(vitreg, made, verb, root / verb).returncode == 0
        return root / verb

    return folder


@pytest.mark.parametrize("verb", WRITES)
def test_a_file_of_the_user_survives_under_every_name_that_a_verb_writes(vitreg, made, first, tmp_path, verb):
    names = [name for name in files(first(verb)) if not name.split("/")[-1].startswith("0000")]
    assert names
    for number, name in enumerate(names):
        if verb == "extract" and not name.endswith("features.parquet"):
            continue  # the rest of a store is named by the hash of what it follows from
        out = tmp_path / str(number)
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(b"mine")
        if name.startswith(
            "runs/"
        ):  # of reproduce and zoo: what one verb refuses is a row that failed, and the others go on
            run_verb(vitreg, made, verb, out)
            assert (out / name).read_bytes() == b"mine", name
            continue
        sentence = one_sentence(run_verb(vitreg, made, verb, out))
        assert (out / name).read_bytes() == b"mine", name
        assert name.split("/")[0] in sentence, name


@pytest.mark.parametrize("verb", [verb for verb in WRITES if verb != "train"])  # a run is never begun twice
def test_the_same_command_may_be_given_again(vitreg, made, first, verb):
    done = run_verb(vitreg, made, verb, first(verb))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", WRITES)
def test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused(vitreg, made, tmp_path, verb):
    out = tmp_path / os.fsdecode(b"caf\xe9")
    done = vitreg(verb, *words_of(CASES[verb], made, out), *MORE.get(verb, ()))
    if verb == "export":  # timm, transformers and onnxruntime could not load it
        assert "UTF-8" in one_sentence(done)
        assert not out.exists()
    else:
        assert done.returncode == 0, done.stderr
        assert files(out)


def test_a_sheet_that_is_read_and_would_go_is_refused(vitreg, photos, tmp_path):
    words = ("--what", "heads", "--out", tmp_path / "m", *SMALL)
    assert vitreg("maps", MODEL, photos, "--layer", "3,4", *words).returncode == 0
    before = files(tmp_path / "m")
    sheet = tmp_path / "m" / next(iter(before))
    assert "maps would replace" in one_sentence(vitreg("maps", MODEL, sheet, *words))
    assert files(tmp_path / "m") == before


@pytest.mark.parametrize(("to", "name"), [("timm", "x"), ("hf", "x"), ("safetensors", "x.safetensors")])
def test_an_export_onto_a_full_disk_says_so_and_leaves_the_earlier_one(vitreg, made, tmp_path, monkeypatch, to, name):
    pytest.importorskip("transformers")
    words = ("export", made["run"], "--to", to, "--out", tmp_path / name)
    assert vitreg(*words).returncode == 0
    before = files(tmp_path)

    def full(*_arguments, **_more):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.serialize_file", full)
    assert "No space left" in one_sentence(vitreg(*words))
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["index.html", "born.html", "photographs/a.jpg", "born-reg4/report.html", "clean/figures/a.png"]
)
def test_the_demo_refuses_before_it_writes_anything(vitreg, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    assert "move it away" in one_sentence(vitreg("demo", "--out", tmp_path))
    assert files(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(("verb", "folder"), [("scan", "figures"), ("discover", "pictures")])
@pytest.mark.parametrize("again", [False, True])
def test_input_images_that_lie_where_results_go_survive(vitreg, photos, tmp_path, verb, folder, again):
    out = tmp_path / "X"
    if again:
        assert vitreg(verb, MODEL, photos, "--out", out, *SMALL).returncode == 0
        shutil.copy(photos / "0.png", out / folder)
    else:
        out.mkdir()
        shutil.move(photos, out / folder)
    before = files(out)
    sentence = one_sentence(vitreg(verb, MODEL, out / folder, "--out", out, *SMALL))
    assert "--out" in sentence
    assert files(out) == before


def test_a_second_scan_of_a_folder_sees_the_same_images(vitreg, photos, monkeypatch):
    monkeypatch.chdir(photos)
    quick = (*SMALL, *QUICK)
    monkeypatch.setattr("vitreg.verbs.scan.verb.build_examples", lambda *_, **__: [])
    for number, images in enumerate((".", ".", "*", "**/*.png")):
        done = vitreg("scan", MODEL, images, *quick)
        assert done.returncode == 0, done.stderr
        assert seen(photos / "vitreg-scan") == 4
        said = [line for line in (done.stdout + done.stderr).splitlines() if "vitreg wrote itself" in line]
        assert images == "*" or len(said) == (number > 0)
    named = vitreg("scan", MODEL, "vitreg-scan/figures/norms_per_layer.png", "--out", "other", *quick)
    assert named.returncode == 0, named.stderr
    assert seen(photos / "other") == 1
    assert vitreg("scan", MODEL, "vitreg-scan/figures", "--out", "third", *quick).returncode == 0


def test_an_out_folder_that_is_deleted_meanwhile_is_made_again(vitreg, photos, tmp_path, monkeypatch):
    from vitreg.verbs.scan import verb

    out, check = tmp_path / "out", verb.findings

    def doctor(*arguments):
        shutil.rmtree(out)
        return check(*arguments)

    monkeypatch.setattr(verb, "findings", doctor)
    assert scan(vitreg, photos, out).returncode == 0
    assert seen(out) == 4
    assert (out / "report.html").exists()
    assert "the tokens with it; the rest of the result is complete" in one_sentence(
        scan(vitreg, photos, out, "--tokens")
    )
    assert seen(out) == 4
    assert (out / "report.html").exists()


def test_an_out_folder_that_cannot_be_made_again_gets_a_neighbour_that_is_named(vitreg, photos, tmp_path, monkeypatch):
    from vitreg.verbs.scan import verb

    out, check = tmp_path / "out", verb.findings

    def doctor(*arguments):
        shutil.rmtree(out)
        out.write_bytes(b"mine")
        return check(*arguments)

    monkeypatch.setattr(verb, "findings", doctor)
    assert str(tmp_path / "out-2") in one_sentence(scan(vitreg, photos, out))
    assert out.read_bytes() == b"mine"
    assert seen(tmp_path / "out-2") == 4


def test_what_a_killed_scan_left_is_swept_by_the_next(vitreg, photos, tmp_path):
    out = tmp_path / "out"

    def killed():
        report.draw_scan = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        scan(vitreg, photos, out, "--tokens")

    assert end_of(killed) == -signal.SIGKILL
    assert seen(out) == 4, "the record is safe before anything is drawn"
    assert (out / "tokens.parquet").exists()
    assert list(out.glob(".part-*"))
    assert scan(vitreg, photos, out).returncode == 0
    assert not list(out.glob(".part-*"))
    assert not (out / "tokens.parquet").exists(), "the tokens belong to the record before"


def test_training_leaves_the_files_of_others_in_its_folder(vitreg, made, tmp_path):
    run = tmp_path / "run"
    mine = {"checkpoints/step-00000099/weights.pth": b"1"}
    for name, data in mine.items():
        (run / name).parent.mkdir(parents=True)
        (run / name).write_bytes(data)
    words = ("train", "--config", made["settings"], "--out", run, "--run.duration", "4 steps")
    assert "move it away" in one_sentence(vitreg(*words))
    assert files(run) == mine
    shutil.rmtree(run)
    assert vitreg(*words).returncode == 0
    (run / "model.safetensors").write_bytes(b"mine")
    assert "model.safetensors was changed" in one_sentence(vitreg("train", "--resume", run))
    assert (run / "model.safetensors").read_bytes() == b"mine"


def test_a_run_of_an_earlier_version_goes_on(vitreg, made, tmp_path):
    shutil.copytree(made["run"], tmp_path / "run")
    (tmp_path / "run" / ".vitreg.json").unlink()
    done = vitreg("train", "--resume", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "the page of the run was not written" in done.stderr  # whose it is cannot be told


@pytest.mark.parametrize("verb", ["scan", "discover", "eval"])
def test_a_result_that_went_beside_has_its_page_and_figures(vitreg, photos, tmp_path, monkeypatch, verb):
    """The out folder becomes a file while the run works: all that a run writes lies beside, and the sentence names it."""
    words = {
        "scan": ("scan", MODEL, photos, *SMALL, *QUICK, "--tokens"),
        "discover": ("discover", MODEL, photos, *SMALL),
        "eval": ("eval", MODEL, "complexity", "--registers", "0", "4"),
    }[verb]
    assert vitreg(*words, "--out", tmp_path / "whole").returncode == 0
    out, module = tmp_path / "out", f"vitreg.verbs.{verb}.verb"

    def taken(**given):  # when all is computed, and nothing of it written but tokens
        shutil.rmtree(out, ignore_errors=True)
        out.write_bytes(b"mine")
        return provenance(**given)

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.provenance", taken)
        done = vitreg(*words, "--out", out)
    sentence = one_sentence(done)
    assert f"the result lies in {tmp_path / 'out-2'} instead" in sentence
    assert set(files(tmp_path / "out-2")) == {name for name in files(tmp_path / "whole") if name != "tokens.parquet"}
    assert out.read_bytes() == b"mine"
    assert ("the tokens with it" in sentence) == (verb == "scan")


@pytest.mark.parametrize("verb", ["scan", "discover"])
def test_an_interrupted_result_does_not_take_the_place_of_a_complete_one(vitreg, photos, tmp_path, monkeypatch, verb):
    from vitreg.analysis.tally import Tally
    from vitreg.verbs.discover.pictures import Gallery

    more = ("--batch-size", "1", *QUICK) if verb == "scan" else ()
    words = (verb, MODEL, photos, "--out", tmp_path / "out", *SMALL, *more)
    assert vitreg(*words).returncode == 0
    before, owner = files(tmp_path / "out"), {"scan": Tally, "discover": Gallery}[verb]
    add, calls = owner.add, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return add(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, "add", interrupted)
        done = vitreg(*words)
    assert done.returncode == 130
    assert f"out keeps its complete result; the interrupted one lies in {tmp_path / 'out-2'}" in done.stderr
    last = Path(done.stdout.splitlines()[-1].removeprefix("Open "))
    assert last.is_relative_to(tmp_path / "out-2")
    assert last.exists()
    assert files(tmp_path / "out") == before
    held = json.loads((tmp_path / "out-2" / "result.json").read_text())["images"]
    assert held["interrupted"]
    assert held["seen"] in (2, 3)


def test_a_scan_of_another_model_does_not_take_the_place_of_a_result(vitreg, photos, tmp_path):
    assert scan(vitreg, photos, tmp_path / "out").returncode == 0
    before = files(tmp_path / "out")
    sentence = one_sentence(vitreg("scan", "planted:clean", photos, "--out", tmp_path / "out", *SMALL, *QUICK))
    assert f"model {MODEL}" in sentence
    assert files(tmp_path / "out") == before
    assert scan(vitreg, photos, tmp_path / "out", "--limit", "2").returncode == 0
