"""The lab: runs beside each other, once each; what is said of them by their records; what is refused."""

import json

import pytest
from tests.unit.experiments.lab.made_runs import moment

import vitreg
from vitreg.errors import UserError
from vitreg.experiments.lab import runs
from vitreg.experiments.lab.born import born_design
from vitreg.experiments.lab.options import LabOptions
from vitreg.experiments.lab.said import judged, line, sentence
from vitreg.passes.jobs import Jobs
from vitreg.records import Curve, Curves, RunRecord, Watch
from vitreg.records.lab import LabReport


def runs_of(options):
    return born_design(options).runs


def record(ratios, errors):
    steps = [250 * i for i in range(len(ratios))]
    looks = [moment(step, ratio) for step, ratio in zip(steps, ratios, strict=True)]
    return RunRecord(
        name="r", folder="r", recipe="regression", size="S/4", registers=0, step=steps[-1], total=steps[-1], epochs=None,
        training=[], evaluations=[Curve(name="val_asked", steps=steps, values=errors)], settings={},
        watched=Watch(onset=None, sentence="", moments=looks),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratios", "errors", "outcome", "onset", "solved"),
    [
        ((1.0, 1.5, 2.0), (None, 0.08, 0.004), "none", None, 500),
        ((1.0, 6.0, 30.0), (None, 0.08, 0.004), "artifacts", 250, 500),
        ((1.0, 56.0, 1.3), (None, 0.08, 0.05), "dissolved", 250, None),
        ((1.0, 1.5, 2.0), (None, 0.08, 0.05), "not solved", None, None),
    ],
)
def test_a_run_is_judged_by_its_whole_curve(ratios, errors, outcome, onset, solved):
    run = runs_of(LabOptions(registers=(0,)))[0]
    found = judged(run, record(ratios, errors), 1.0)
    assert (found.outcome, found.onset, found.solved) == (outcome, onset, solved)
    assert (found.peak_ratio, found.last_ratio) == (max(ratios), ratios[-1])
    assert (found.background.block, found.background.attention, found.background.values) == (1, 0.5, 0.1)
    said = sentence(found)
    words = {
        "none": "no artifacts (", "artifacts": "artifacts from step 250", "dissolved": "gone at the end",
        "not solved": "no artifacts so far (",
    }  # fmt: skip
    assert words[outcome] in said
    assert ("not solved by step 500" if solved is None else "solved at step 500") in said


def test_what_cannot_be_asked_for():
    for words, said in (
        ({"registers": (65,)}, "registers takes numbers from 0 to 64"),
        ({"seeds": 0}, "seeds is 0; it goes from 1 to 1000"),
        ({"steps": 10_001}, "steps is 10001; it goes from 1 to 10000"),
        ({"processes": 0}, "processes is 0"),
    ):
        with pytest.raises(UserError, match=said):
            LabOptions(**words)
    with pytest.raises(UserError, match=r"no experiment 'bron' in vitreg lab. Did you mean 'born'"):
        vitreg.lab("bron", out="nowhere")


def test_equal_numbers_are_one_run_and_seeds_change_data_and_weights():
    runs = runs_of(LabOptions(registers=(0, 4, 0), seeds=2))
    assert [run.name for run in runs] == [f"{n} registers, seed {s}" for s in (0, 1) for n in (0, 4)]
    assert len({run.job.key for run in runs}) == 4
    assert [run.config.data.root.split(":")[1] for run in runs] == [
        "retrieval@0",
        "retrieval@0",
        "retrieval@1",
        "retrieval@1",
    ]
    assert [run.config.run.seed for run in runs] == [0, 0, 1, 1]


@pytest.mark.slow
def test_two_processes_train_each_run_once_and_the_result_is_drawn(lab_of_six_steps, tmp_path):
    lines = []
    found = vitreg.lab("born", out=tmp_path / "lab", registers=(0, 2), told=lines.append)
    assert [(run.registers, run.steps, run.failed, run.outcome) for run in found.runs] == [
        (0, 6, "", "not solved"),
        (2, 6, "", "not solved"),
    ]
    assert found.runs[0].registers_hold is None
    assert 0 < found.runs[1].registers_hold.attention < 1
    assert found.births == "births/report.html"
    assert LabReport.model_validate(json.loads((tmp_path / "lab" / "result.json").read_text())) == found
    for name in ("report.html", "runs.csv", "births/report.html", "births/curves.png"):
        assert (tmp_path / "lab" / name).stat().st_size > 500
    named = {run.name: tmp_path / "lab" / run.folder for run in found.runs}
    drawn = Curves.model_validate_json((tmp_path / "lab" / "births" / "curves.json").read_text())
    assert [(run.name, run.registers) for run in drawn.runs] == [("0 registers, seed 0", 0), ("2 registers, seed 0", 2)]
    assert [run.name for run in vitreg.curves(named).runs] == list(named)
    trained = runs_of(LabOptions(registers=(0, 2)))
    with Jobs(tmp_path / "lab") as jobs:
        written = {run.name: (jobs.files(run.job) / "metrics.jsonl").stat().st_mtime_ns for run in trained}
        words = line({run.name: jobs.files(run.job) for run in trained})
    assert "0 registers, seed 0: step 6, error " in words
    assert "| 2 registers, seed 0: step 6" in words
    with Jobs(tmp_path / "lab") as jobs:
        assert named == {run.name: jobs.files(run.job) for run in trained}
    # The same command again does nothing twice.
    again = vitreg.lab("born", out=tmp_path / "lab", registers=(0, 2))
    with Jobs(tmp_path / "lab") as jobs:
        assert {run.name: (jobs.files(run.job) / "metrics.jsonl").stat().st_mtime_ns for run in trained} == written
    assert again == found


def test_a_run_that_failed_is_a_row_with_its_reason(lab_of_six_steps, tmp_path, monkeypatch):
    run, other = runs_of(LabOptions(registers=(0, 4)))

    def failing(_runs, folder, *_):
        with Jobs(folder) as jobs:
            return [jobs.do(run.job, broken), runs._lost(other)]

    def broken(_place):
        raise UserError("the disk is full.")

    monkeypatch.setattr("vitreg.experiments.lab.born.train_all", failing)
    lines = []
    found = vitreg.lab("born", out=tmp_path / "lab", registers=(0, 4), told=lines.append)
    assert [sentence(each) for each in found.runs] == ["0 registers, seed 0: the disk is full."]
    assert (found.asked, found.ended, found.births) == (2, 1, "")
    assert lines == [
        "training with 0 registers, seed 0: the disk is full.",
        "training with 4 registers, seed 0: its process ended without a result; the same command tries again.",
    ]
