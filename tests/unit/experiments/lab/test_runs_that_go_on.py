"""Runs that go on from the end of others: what is asked for, that the other comes first, what is trained, and what is said."""

import json
import re

import pytest
from tests.unit.experiments.lab import made_runs
from tests.unit.experiments.lab.test_lab_runs import written

import vitreg
from vitreg.errors import UserError
from vitreg.experiments.lab import runs
from vitreg.experiments.lab.hours import plan_of
from vitreg.experiments.lab.reading import design_named, design_of
from vitreg.passes.jobs import Jobs

LATER = {"after": {"registers": 0}, "steps": 2000, "factors": {"registers": [0, 4]}}
DESIGN = {"seeds": 6, "block": [{"factors": {"registers": [0]}}, LATER]}


def design(**over):
    return design_of({**DESIGN, **over}, "mine", "mine.toml")


def test_a_run_goes_on_for_its_steps_from_the_run_of_its_seed_on_images_that_it_never_saw():
    found = design(seeds=[3, 5])
    before, later = found.runs[:2], found.runs[2:]
    assert [run.name for run in later[:2]] == [
        "0 registers, going on from 0 registers, seed 3", "4 registers, going on from 0 registers, seed 3",
    ]  # fmt: skip
    assert [run.source for run in later] == [before[0], before[0], before[1], before[1]]
    for run in later:
        assert (run.config.run.until, run.config.run.duration) == (None, "2000 steps")
        assert run.config.run.start_from == f"run:{run.source.job.key}"
        assert run.config.run.seed == run.seed
        assert run.config.data.root.startswith(f"synthetic:retrieval@{run.seed + 2**31}:")
    assert len({run.job.key for run in found.runs}) == 6


def test_what_the_run_before_had_stays():
    block = {"after": {"gate": True}, "steps": 10, "factors": {"registers": [4]}}
    found = design(seeds=1, block=[{"factors": {"gate": [True]}}, block])
    assert [(run.config.model.gate, run.config.model.registers) for run in found.runs[2:]] == [(True, 0), (True, 4)]


def test_its_hours_are_those_of_its_steps():
    plan = plan_of(design(), lambda job: None, lambda config: 0.1)
    assert plan.hours == pytest.approx(0.1 * 6 * (4800 + 2 * 2000) / 3600)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"after": {"registers": 2}}, "goes on from registers = 2, which no earlier block has from seed 0"),
        ({"after": {"registers": 0}, "seeds": [0, 9]}, "which no earlier block has from seed 9"),
        ({"after": {"registrs": 0}}, "no factor 'registrs' in after in block"),
        ({"after": 0}, "is a table, not 0"),
        ({"after": {"registers": 0}, "steps": 0}, "is a whole number from 1 to 1,000,000, not 0"),
        ({"steps": 5}, "has steps of its own, which only runs that go on have"),
    ],
)
def test_what_it_cannot_go_on_from_is_one_sentence(later, said):
    with pytest.raises(UserError, match=said):
        design(block=[{"factors": {"registers": [0]}}, {"factors": {"registers": [0, 4]}, **later}])


def planted(config, folder):
    if config.run.start_from is None:
        return made_runs.write(folder, config)
    return made_runs.go_on(folder, config, ends=1.5 if config.model.registers else 60.0)


def test_it_says_whether_artifacts_went(monkeypatch, tmp_path):
    made_runs.in_this_process(monkeypatch, planted)
    found = vitreg.lab("run", written(tmp_path, DESIGN), out=tmp_path / "out")
    base, control, added = found.cells
    assert (base.after, control.after, added.after) == (None, 0, 0)
    assert [(each.artifacts.hits, each.artifacts.of) for each in found.cells] == [(6, 6), (6, 6), (0, 6)]
    assert found.runs[-1].outcome == "dissolved"
    assert found.runs[-1].began == pytest.approx(found.runs[5].last_ratio)
    (row,) = found.effects
    assert (row.after, set(row.measures)) == (0, {"last", "error"})
    last = row.measures["last"]
    assert last.low <= 1.5 / 60 <= last.high
    assert last.decided
    (said,) = [each for each in found.answers if each.question == "Do artifacts go when registers are added later?"]
    assert said.decided
    assert "with 4 registers artifacts are left in 0 of 6 runs (0 % to 39 %), without in 6 of 6 runs" in said.sentence
    assert "Registers that are added later" not in found.sentence
    page = (tmp_path / "out" / "report.html").read_text()
    assert "going on from" in page


def test_a_run_before_without_artifacts_leaves_nothing_to_say(monkeypatch, tmp_path):
    def trained(config, folder):
        if config.run.start_from is None:
            return made_runs.write(folder, config, peak=1.4 if config.run.seed else 30.0)
        return made_runs.go_on(folder, config, begins=30.0 if config.run.seed == 0 else 1.4, ends=1.4)

    made_runs.in_this_process(monkeypatch, trained)
    found = vitreg.lab("run", written(tmp_path, DESIGN), out=tmp_path / "out")
    assert [each.artifacts.of for each in found.cells] == [6, 1, 1]
    assert found.effects[0].measures["last"].left_out == 10
    assert not found.effects[0].measures["last"].decided


def test_the_run_before_comes_first_whatever_is_asked_for_and_its_folder_is_what_is_started_from(monkeypatch, tmp_path):
    started = []

    def trained(config, folder):
        started.append(config.run.start_from)
        return planted(config, folder)

    made_runs.in_this_process(monkeypatch, trained)
    wanted = design_named(str(written(tmp_path, DESIGN))).runs
    runs.work_on(wanted[-1:], tmp_path / "out")
    with Jobs(tmp_path / "out") as jobs:
        assert jobs.row(wanted[-1].source.job).failed == ""
        assert started == [None, f"run:{jobs.files(wanted[-1].source.job)}"]
    # Moved after it began: it keeps what it started from, so that the same training goes on.
    assert (
        runs._found(wanted[-1].config, jobs.files(wanted[-1].job), tmp_path / "elsewhere").run.start_from == started[1]
    )


def test_a_run_before_that_failed_fails_it_with_the_reason(monkeypatch, tmp_path):
    def trained(config, folder):
        raise UserError("cannot write to its folder: No space left on device.")

    made_runs.in_this_process(monkeypatch, trained)
    found = vitreg.lab("run", written(tmp_path, {**DESIGN, "seeds": 1}), out=tmp_path / "out")
    assert [re.sub("failed: .*", "failed", run.failed) for run in found.runs[1:]] == [
        "the run that it goes on from failed",
        "the run that it goes on from failed",
    ]


@pytest.mark.slow
def test_registers_are_added_to_what_was_really_trained(tmp_path):
    base = {
        "batch": 2, "evaluate_every": "3 steps", "watch_every": "3 steps", "save_every": "2 steps", "watch_images": 4, "watch_maps": 0,
        "log_every": 1,
    }  # fmt: skip
    data = {"seeds": 1, "steps": 6, "base": base, "block": [{"factors": {"registers": [0]}}, {**LATER, "steps": 3}]}
    wanted = design_named(str(written(tmp_path, data))).runs
    runs.work_on(wanted, tmp_path / "out")
    with Jobs(tmp_path / "out") as jobs:
        rows = [jobs.row(run.job) for run in wanted]
        assert [(row.failed, row.found["steps"]) for row in rows] == [("", 6), ("", 3), ("", 3)]
        looks = [
            [json.loads(line) for line in (jobs.files(run.job) / "metrics.jsonl").read_text().splitlines()]
            for run in wanted
        ]
    last = [line for line in looks[0] if line["kind"] == "norms"][-1]
    first = next(line for line in looks[1] if line["kind"] == "norms")
    # Other images, the same weights: the medians agree as those of 4 images do.
    assert [each["median"] for each in first["layers"]] == pytest.approx(
        [each["median"] for each in last["layers"]], rel=0.1
    )
    assert looks[2][0]["layers"][0]["attention"]["registers"] > 0
