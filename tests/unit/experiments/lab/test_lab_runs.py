"""A design on the one runner: once each, also by two processes and after kills; what fails or diverges is a row; a full disk."""

import errno
import json
import math
import os
import random
import signal
from pathlib import Path

import pytest
from tests.apart import end_of
from tests.patience import until
from tests.unit.experiments.killed import kept, life
from tests.unit.experiments.lab import made_runs

import vitreg
from vitreg.config import encode
from vitreg.errors import UserError
from vitreg.experiments.lab import runs
from vitreg.experiments.lab.hours import Timing, plan_of
from vitreg.experiments.lab.reading import design_named, design_of
from vitreg.experiments.lab.running import lines
from vitreg.passes.jobs import Job, Row
from vitreg.training.setup import DivergedError

TWO = {"seeds": 2, "block": [{"factors": {"registers": [0, 4]}}]}


def written(tmp_path, data=TWO):
    path = tmp_path / "design.json"
    path.write_text(json.dumps(data))
    return path


def well(config, folder):
    return made_runs.write(folder, config, **made_runs.planted(config))


def test_each_run_is_done_once_and_a_larger_design_goes_on_from_a_smaller(monkeypatch, tmp_path):
    ran, told = tmp_path / "ran", []
    made_runs.in_this_process(monkeypatch, well, ran)
    found = vitreg.lab("run", written(tmp_path), out=tmp_path / "out", told=told.append)
    assert (found.asked, found.ended) == (4, 4)
    assert told[0].startswith(
        "4 runs: about 0.267 hours of a core, 0.133 with 2 processes on an idle machine, if each takes 4,800 steps"
    )
    assert told[-1] == "4 of 4 runs ended"
    vitreg.lab("run", written(tmp_path), out=tmp_path / "out", told=told.append)
    assert told[-1] == "All 4 runs ended before."
    assert len(ran.read_text().splitlines()) == 4
    found = vitreg.lab("run", written(tmp_path, {**TWO, "seeds": 3}), out=tmp_path / "out")
    assert (found.asked, found.ended) == (6, 6)
    assert len(ran.read_text().splitlines()) == 6


def test_two_processes_share_a_design_and_both_end_with_all_of_it(monkeypatch, tmp_path):
    ran, begun, here = tmp_path / "ran", tmp_path / "begun", tmp_path / "here"

    def waiting(config, folder):
        if os.getpid() != parent:  # the other holds its first run until this one has ended one
            begun.touch()
            until(here.exists)
        else:
            here.touch()
        return well(config, folder)

    parent = os.getpid()
    made_runs.in_this_process(monkeypatch, waiting, ran)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(vitreg.lab("run", written(tmp_path), out=tmp_path / "out").ended != 4)
        finally:
            os._exit(code)
    until(begun.exists)
    found = vitreg.lab("run", written(tmp_path), out=tmp_path / "out")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found.ended == 4
    names = [line.split()[1] for line in ran.read_text().splitlines()]
    assert len(names) == len(set(names)) == 4


def test_a_run_that_diverges_is_a_row_and_is_not_tried_again(monkeypatch, tmp_path):
    ran = tmp_path / "ran"

    def diverges(config, folder):
        steps = well(config, folder)
        if config.model.registers and config.run.seed:
            raise DivergedError(
                "the loss or the gradient of step 1001 is not finite; there is no good checkpoint.", 1001
            )
        return steps

    made_runs.in_this_process(monkeypatch, diverges, ran)
    for _ in range(2):
        found = vitreg.lab("run", written(tmp_path), out=tmp_path / "out")
    assert len(ran.read_text().splitlines()) == 4
    assert found.cells[1].outcomes == {"none": 1, "diverged": 1}
    assert found.runs[3].diverged == "the loss or the gradient of step 1,001 is not finite."
    assert found.effects[0].measures["ratio"].runs == (1, 2)
    assert found.effects[0].measures["ratio"].left_out == 1
    assert found.runs[3].diverged in (tmp_path / "out" / "report.html").read_text()


def test_a_run_that_fails_is_a_row_the_others_go_on_and_the_next_command_tries_again(monkeypatch, tmp_path):
    broken = [True]

    def fails(config, folder):
        if broken and config.run.seed == 1:
            raise UserError("cannot write to its folder: No space left on device.")
        return well(config, folder)

    made_runs.in_this_process(monkeypatch, fails)
    found = vitreg.lab("run", written(tmp_path), out=tmp_path / "out")
    assert [run.failed for run in found.runs] == ["", "", *["cannot write to its folder: No space left on device."] * 2]
    assert [cell.failed for cell in found.cells] == [1, 1]
    broken.clear()
    assert not any(run.failed for run in vitreg.lab("run", written(tmp_path), out=tmp_path / "out").runs)


def test_a_full_disk_ends_the_runs_in_one_sentence_and_nothing_is_lost(monkeypatch, tmp_path):
    ran = tmp_path / "ran"
    made_runs.in_this_process(monkeypatch, well, ran)
    wanted, told = design_named(str(written(tmp_path))).runs, []

    class Said:
        put = staticmethod(told.append)

    runs.work_on(wanted[:1], tmp_path / "out")
    with monkeypatch.context() as patch:

        def full(path, *given, **named):
            if path.suffix == ".json" or "jobs" in path.parts:
                raise OSError(errno.ENOSPC, "No space left on device")
            return keep(path, *given, **named)

        keep = Path.write_text
        patch.setattr(runs, "trained", lambda config, folder, resumed: 4)
        patch.setattr(Path, "write_text", full)
        runs._work(wanted, tmp_path / "out", Said)
    assert len(told) == 1
    assert "No space left" in told[0]
    assert vitreg.lab("run", written(tmp_path), out=tmp_path / "out").ended == 4
    assert len(ran.read_text().splitlines()) == 4  # the first was kept


def test_what_ended_the_work_of_another_process_is_said_by_this_one(tmp_path, monkeypatch):
    """Its folder is a file, so that no process can write a row."""
    wanted = design_named("tiny").runs[:1]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs").write_text("mine")
    with pytest.raises(UserError, match="runs is a file"):
        runs.work_on(wanted, tmp_path / "out")


def test_hours_are_those_of_the_runs_that_ended_or_of_a_moment_of_training():
    design = design_of({"seeds": 2, "steps": 6000, "block": [{"factors": {"depth": [8]}}]}, "mine", "mine.toml")
    asked = []

    def timed(config):
        asked.append(config.model.depth)
        return 0.1 if config.model.depth == 8 else 0.05

    plan = plan_of(design, lambda job: None, timed)
    assert asked == [4, 8]
    assert (plan.left, plan.steps, plan.recorded) == (4, 4800, False)
    assert plan.hours == pytest.approx(2 * (0.05 + 0.1) * 4800 / 3600)
    assert plan.most == pytest.approx(plan.hours * 6000 / 4800)

    def row(job: Job):
        if job.settings["config"]["run"]["seed"] == 0:  # taken up at step 1000
            return Row(name=job.name, settings={}, found={"steps": 3000, "begun": 1000}, seconds=400.0, at=0.0)
        return None

    plan = plan_of(design, row, timed)
    assert asked == [4, 8]
    assert (plan.left, plan.steps, plan.recorded) == (2, 3000, True)
    assert plan.hours == pytest.approx(2 * 0.2 * 3000 / 3600)
    assert "2 of 4 runs: about 0.333 hours of a core, 0.167 with 2 processes" in plan.sentence(2)
    assert next(lines(design, plan, 2)) == "base: seeds 0 to 1, 10.0 minutes each"


def test_what_is_no_folder_of_a_design_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no design"):
        vitreg.lab("report", tmp_path)
    (tmp_path / "design.json").write_text("[")
    with pytest.raises(UserError, match=r"design.json is no valid JSON"):
        vitreg.lab("report", tmp_path)
    with pytest.raises(UserError, match="needs a folder; name it by out"):
        vitreg.lab("run", "tiny")
    with pytest.raises(UserError, match=r"no keyword 'registers' in vitreg.lab"):
        vitreg.lab("run", "tiny", out=tmp_path / "out", registers=(0, 4))


def test_the_result_of_another_experiment_is_not_replaced(monkeypatch, tmp_path):
    made_runs.in_this_process(monkeypatch, well)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text('{"schema": "vitreg.lab/1"}')
    with pytest.raises(UserError, match="holds another result"):
        vitreg.lab("run", written(tmp_path), out=tmp_path / "out")


@pytest.mark.parametrize("name", ["result.json", "report.html", "effects.csv", "runs.csv", "design.json"])
def test_a_file_of_the_user_is_not_replaced(name, monkeypatch, tmp_path):
    made_runs.in_this_process(monkeypatch, well)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match="move it away"):
        vitreg.lab("run", written(tmp_path), out=tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "mine"


TINY = {
    "steps": 6,
    "base": {"batch": 2, "evaluate_every": "3 steps", "watch_every": "3 steps", "save_every": "2 steps", "watch_images": 4, "watch_maps": 0,
             "log_every": 1},
    "seeds": 1,
    "block": [{"factors": {"registers": [0, 1]}}],
}  # fmt: skip


@pytest.fixture
def really(monkeypatch):
    """Train for real, in this process."""

    def trained(config, folder, resumed):
        return whole(config, folder, resumed)

    whole = runs.trained
    made_runs.in_this_process(monkeypatch, well)
    monkeypatch.setattr(runs, "trained", trained)


@pytest.mark.slow
def test_a_design_killed_at_ten_random_moments_ends_with_the_same_ledger(really, tmp_path):
    path, out, draw = written(tmp_path, {**TINY, "seeds": 2}), tmp_path / "out", random.Random(17)
    vitreg.lab("run", path, out=tmp_path / "whole")
    ends: list[int] = []
    for number in range(10):
        event, most = (("training", 3), ("opening", 300), ("keeping", 1), ("writing", 2))[
            number % 4 if all(ends) else 3
        ]
        ends.append(life(lambda: vitreg.lab("run", path, out=out), event, draw.randint(1, most)))
    assert ends.count(-signal.SIGKILL) >= 8
    vitreg.lab("run", path, out=out)
    whole, mended = kept(tmp_path / "whole"), kept(out)
    rows = [name for name in whole if name.startswith("jobs/") or name in ("result.json", "effects.csv", "design.json")]
    assert {name: mended[name] for name in rows} == {name: whole[name] for name in rows}
    for name in whole:
        if name.endswith(("model.safetensors", "metrics.jsonl")):
            assert mended[name] == whole[name], name


@pytest.mark.slow
def test_a_training_that_really_diverges_is_a_row(really, tmp_path):
    data = {**TINY, "base": {**TINY["base"], "lr": 1e30, "min_lr": 1e30}}
    found = vitreg.lab("run", written(tmp_path, data), out=tmp_path / "out")
    assert [run.outcome for run in found.runs] == ["diverged", "diverged"]
    assert all("is not finite" in run.diverged for run in found.runs)


@pytest.mark.slow
def test_the_same_seed_trains_bit_for_bit_the_same_on_one_core_and_another_seed_another(tmp_path):
    def weights(seed, name):
        def do():
            import torch

            torch.set_num_threads(1)
            config = design_of({**TINY, "seeds": [seed]}, "mine", "mine.toml").runs[0].config
            runs.trained(config, tmp_path / name, False)

        assert end_of(do) == 0
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return (tmp_path / name / "model.safetensors").read_bytes(), [
            line["loss"] for line in lines if line["kind"] == "train"
        ]

    one, same, other = weights(3, "one"), weights(3, "same"), weights(4, "other")
    assert one == same
    assert one[0] != other[0]


@pytest.mark.slow
def test_a_moment_of_training_gives_the_seconds_of_a_step():
    config = design_named("tiny").runs[0].config
    found = Timing()(config)
    assert math.isfinite(found)
    assert 0 < found < 60
    assert encode(config) == encode(design_named("tiny").runs[0].config)
