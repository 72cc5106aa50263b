"""What a run wrote down becomes a record: artifacts planted at a known step are found there, none are said to be none."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.unit.report.synthetic_run import write_run

from vitreg.cli import run
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.models.vit import VisionTransformer, publish
from vitreg.records import Curves, ScanResult
from vitreg.training.history import onset, read_run, watch_of
from vitreg.training.journal import Journal
from vitreg.verbs.curves import curves, write_run_report
from vitreg.verbs.scan.look import norms_of
from vitreg.verbs.scan.verb import scan


@pytest.mark.parametrize(
    ("shown", "step"),
    [
        ("......", None),
        ("...xxx", 30),
        ("xxxxxx", 0),
        (".....x", 50),
        ("xxx...", None),  # disappears
        (".xx.xx", 40),  # appears, disappears, appears again
        (".x.x.x", 50),
        ("x", 0),
        ("", None),
    ],
)
def test_the_onset_is_the_step_from_which_every_look_shows_artifacts(shown, step):
    records = [{"step": 10 * i, "verdict": "high-norm" if sign == "x" else "none"} for i, sign in enumerate(shown)]
    assert onset(records) == step


@pytest.mark.parametrize(
    ("artifacts", "step", "sentence"),
    [
        ((), None, "No artifacts appeared up to step 1,000."),
        (range(400, 1001, 100), 400, "Artifacts appeared between steps 300 and 400, 40 % into the run, and stayed."),
        (range(0, 1001, 100), 0, "Artifacts were there at the first look, after 0 steps, and stayed."),
        ((1000,), 1000, "Artifacts appeared between steps 900 and 1,000, 100 % into the run, at the last look."),
        ((300,), None, "Artifacts showed in one look, first at step 300, and were gone at step 1,000."),
        ((300, 400), None, "Artifacts showed in 2 of 11 looks, first at step 300, and were gone at step 1,000."),
        (
            (200, 900, 1000),
            900,
            "Artifacts appeared again between steps 800 and 900, 90 % into the run, and stayed. "
            "They had come and gone before, first at step 200.",
        ),
    ],
)
def test_it_is_said_when_artifacts_appeared(tmp_path, artifacts, step, sentence):
    watch = read_run(write_run(tmp_path / "run", total=1000, watch_every=100, artifacts=artifacts)).watched
    assert watch.onset == step
    assert watch.sentence == sentence


def test_a_look_during_training_says_what_a_scan_says_without_simulating_what_it_could_have_shown(monkeypatch):
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 32, 2, 2).eval()
    probes = torch.randn(4, 3, 32, 32)
    whole = scan(network, probes)
    assert whole.verdict.power is not None
    monkeypatch.setattr("vitreg.verbs.scan.readout.power_of", lambda *_: 1 / 0)
    look = norms_of(network, probes)
    words = ("strength", "first_layer", "peak_layer", "outlier_fraction")
    assert {
        "verdict": whole.verdict.kind,
        **{word: getattr(whole.verdict, word) for word in words},
    }.items() <= look.items()
    assert [layer["median"] for layer in look["layers"]] == [layer.median for layer in whole.layers]


def test_artifacts_written_into_a_model_are_found_at_the_step_they_were_written(tmp_path, photographs):
    from vitreg.data.views.transforms import IMAGENET

    model, _ = planted.build("high-norm", seed=3)
    clean = planted.clean(seed=3)
    probes = torch.stack([IMAGENET(Image.open(path).convert("RGB")) for path in photographs[:4]])
    folder = write_run(tmp_path / "run", watch_every=0, total=1000, done=400)
    journal = Journal(folder, 400, write=True, tensorboard=False)
    looks = {"clean": norms_of(clean, probes), "planted": norms_of(model, probes)}
    for step, which in ((0, "clean"), (100, "clean"), (200, "planted"), (400, "planted")):
        journal.write("norms", step, looks[which])
    watch = read_run(folder).watched
    assert watch.onset == 200
    assert [len(moment.layers) for moment in watch.moments] == [len(clean.blocks)] * 4
    assert watch.moments[0].outlier_fraction == 0 < watch.moments[-1].outlier_fraction
    # The histogram and the numbers of the last block are of the same tokens.
    for moment in watch.moments:
        last, edges, counts = moment.layers[-1], moment.histogram.edges, moment.histogram.counts
        filled = [edge for edge, count in zip(edges[1:], counts, strict=True) if count]
        assert last.max <= filled[-1] * 1.001
        assert sum(counts) == probes.shape[0] * clean.grid[0] * clean.grid[1]


def test_a_run_as_a_record(tmp_path):
    record = read_run(write_run(tmp_path / "reg4", total=1000, registers=4, log_every=100, recipe="clip"))
    lines = [json.loads(line) for line in (tmp_path / "reg4" / "metrics.jsonl").read_text().splitlines()]
    assert (record.name, record.recipe, record.size, record.registers) == ("reg4", "clip", "S/16", 4)
    assert (record.step, record.total, record.epochs) == (1000, 1000, 10.0)
    by_name = {curve.name: curve for curve in record.training}
    assert by_name["loss"].values == [line["loss"] for line in lines if line["kind"] == "train"]
    assert by_name["lr"].steps == list(range(100, 1001, 100))
    assert [curve.name for curve in record.evaluations] == ["top1", "top1_other"]
    assert record.settings["run.batch"] == 256


@pytest.mark.parametrize(
    ("duration", "total"), [("10 epochs", 1000), ("700 steps", 700), ("25600 examples", 100), ("soon", None)]
)
def test_the_length_of_the_plan(tmp_path, duration, total):
    folder = write_run(tmp_path / "run", total=1000, done=200)
    config = json.loads((folder / "config.json").read_text())
    config["train"]["run"]["duration"] = duration
    (folder / "config.json").write_text(json.dumps(config))
    assert read_run(folder).total == total


def test_a_line_cut_off_a_step_written_twice_and_a_number_that_is_none(tmp_path):
    folder = write_run(tmp_path / "run", total=1000, log_every=500, watch_every=0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 500, "loss": 7.0, "note": "text"}\n')
        file.write('{"kind": "train", "step": 1000, "loss": null}\n{"kind": "train", "step": 1100, "lo')
    loss = read_run(folder).training[0]
    assert (loss.name, loss.steps, loss.values) == ("loss", [500, 1000], [7.0, None])


def test_lines_that_are_no_records_do_not_block_a_run_and_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run", total=1000, log_every=500, watch_every=500)
    before = read_run(folder)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"kind": "train", "step": "1500", "loss": 7.0}\n{"kind": "norms", "step": 700}\n')
        file.write(b'{"kind": "train", "step": 1000, "huge": 1' + b"0" * 400 + b', "epoch": "two"}\n')
    after = read_run(folder)
    assert after.watched == before.watched
    assert after.step == before.step == 1000
    assert (before.unreadable, after.unreadable) == (0, 3)
    assert run(["curves", "run"]) == 0
    assert "run: 3 lines of metrics.jsonl could not be read and are left out." in capsys.readouterr().out


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="is no folder of a training run"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text('{"schema": "vitreg.run/1", "train": {}}')
    with pytest.raises(UserError, match="has written nothing down yet"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"kind": "norms", "step": 3, "verdict": "none"}\n')
    with pytest.raises(UserError, match=r"not one of the 1 lines of .*metrics\.jsonl could be read"):
        watch_of(tmp_path)


def test_several_runs_are_told_apart_and_written_down(tmp_path):
    folders = [write_run(tmp_path / name / "run", total=1000, watch_every=500) for name in ("a", "b")]
    other = write_run(tmp_path / "other", total=1000, watch_every=0)
    record = curves([*folders, f"run:{other}"], out=tmp_path / "out")
    assert [run.name for run in record.runs] == [str(folders[0]), str(folders[1]), "other"]
    assert Curves.model_validate_json((tmp_path / "out" / "curves.json").read_text()) == record
    assert (tmp_path / "out" / "report.html").exists()
    width, height = Image.open(tmp_path / "out" / "curves.png").size
    assert width > 1000
    assert height > 1000
    with pytest.raises(UserError, match="1 to 8 runs, not 9"):
        curves([other] * 9)


def test_runs_are_named_by_the_keys_of_a_mapping(tmp_path):
    folders = [write_run(tmp_path / name / "run", total=100, watch_every=50) for name in "ab"]
    drawn = curves({"without": folders[0], "with": f"run:{folders[1]}"}, out=tmp_path / "drawn")
    assert [run.name for run in drawn.runs] == ["without", "with"]
    assert [run.folder for run in drawn.runs] == [str(each) for each in folders]
    assert "without" in (tmp_path / "drawn" / "report.html").read_text()
    with pytest.raises(UserError, match="curves are drawn of 1 to 8 runs, not 0"):
        curves({})


def test_the_page_of_a_run_lies_in_its_folder(tmp_path):
    folder = write_run(tmp_path / "run", total=1000, watch_every=500)
    assert write_run_report(folder) == folder / "report.html"
    assert "No artifacts appeared up to step 1,000." in (folder / "report.html").read_text()


def test_the_command_line_says_when_and_where(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, artifacts in (("reg0", (500, 1000)), ("reg4", ())):
        write_run(tmp_path / name, total=1000, watch_every=500, artifacts=artifacts)
    assert run(["curves", "run:reg0"]) == 0
    first = "reg0: Artifacts appeared between steps 0 and 500, 50 % into the run, and stayed.\n"
    assert capsys.readouterr().out == f"{first}Open reg0/report.html\n"
    assert run(["curves", "reg0", "reg4"]) == 0
    second = "reg4: No artifacts appeared up to step 1,000.\n"
    assert capsys.readouterr().out == f"{first}{second}Open vitreg-curves/report.html\n"
    assert sorted(path.name for path in (tmp_path / "vitreg-curves").iterdir()) == [
        ".vitreg.json",
        "curves.json",
        "curves.png",
        "report.html",
    ]
    with pytest.raises(UserError, match="no runs named"):
        run(["curves"])


TINY = {"image_size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2}


def test_a_scan_of_a_run_carries_its_curve(tmp_path, photographs):
    from vitreg.verbs.scan.verb import scan

    folder = write_run(tmp_path / "run", total=1000, watch_every=100, artifacts=range(600, 1001, 100))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model": TINY}))
    save_file(publish(VisionTransformer(**TINY).state_dict()), folder / "model.safetensors")
    result = scan(f"run:{folder}", [photographs[0]], out=tmp_path / "out")
    assert result.watched.onset == 600
    assert ScanResult.model_validate_json((tmp_path / "out" / "result.json").read_text()).watched == result.watched
    assert result.watched.sentence in (tmp_path / "out" / "report.html").read_text()
    # A broken record is no reason to refuse a scan.
    (folder / "metrics.jsonl").write_text('{"kind": "norms", "step": 3}\n')
    unread = scan(f"run:{folder}", [photographs[0]])
    assert unread.watched is None
    assert any("its training are not shown" in note for note in unread.model.notes)


def test_reading_needs_no_torch(tmp_path):
    folder = write_run(tmp_path / "run", total=1000, watch_every=500)
    code = (
        "import sys; from vitreg.verbs.curves import curves; curves(sys.argv[1:2], out=sys.argv[2]); "
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == 0


def test_an_unfinished_run_says_at_which_look_it_had_no_artifacts_not_where_it_stands(tmp_path):
    folder = write_run(tmp_path / "run", total=10_000, done=4_700, watch_every=500)
    journal = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    kept = [line for line in lines if line["kind"] != "norms" or line["step"] <= 4_500]
    journal.write_text("".join(json.dumps(line) + "\n" for line in kept))
    run = read_run(folder)
    assert run.step > run.watched.moments[-1].step == 4_500
    assert run.watched.sentence == (
        "No artifacts so far: the last look was at step 4,500 of 10,000, and the run is unfinished."
    )
