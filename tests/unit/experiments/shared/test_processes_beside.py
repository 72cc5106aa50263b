"""Processes beside a run do its jobs, end with it, and change none of its numbers."""

import os
import signal

import pytest
from tests.patience import until
from tests.unit.experiments.killed import kept

import vitreg
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.shared import processes
from vitreg.experiments.shared.run import Run
from vitreg.passes.jobs import Jobs

MODELS = ("planted:high-norm", "planted:clean")


def options(photographs, **words):
    given = {"models": MODELS, "images": tuple(map(str, photographs[:6])), "size": 64, "batch_size": 2, "workers": 0}
    return ReproduceOptions(**given | words)


def test_another_process_does_the_jobs_and_ends_with_the_block(photographs, tmp_path, monkeypatch):
    run = Run(("fig3",), tmp_path, options(photographs, models=MODELS[1:]), {"precision": "fp32"})
    begun = []
    started = processes._started
    monkeypatch.setattr(processes, "_started", lambda *words: begun.append(started(*words)) or begun[-1])
    with Jobs(tmp_path) as jobs, processes.beside(1, run):
        until(lambda: list((tmp_path / "jobs").glob("*.json")))
        (record,) = run.records(jobs)  # from the row
    assert begun[0].returncode is not None
    assert not record.measured[0].failed
    assert len(list((tmp_path / "jobs").glob("*.json"))) == 1


def test_small_models_are_shared_and_models_of_the_user_are_not(photographs, monkeypatch):
    monkeypatch.setattr(processes, "processors", lambda: 2)

    def count(ids=("fig3",), device="cpu", **words):
        return processes.processes_of(Run(ids, photographs[0], ReproduceOptions(**words), {}), device)

    assert count() == 2
    assert {
        count(models=MODELS),
        count(scale="lab"),
        count(("fig11", "fig12")),
        count(device="cuda"),
        count(processes=1),
    } == {1}
    assert count(models=MODELS, processes=3) == 3
    monkeypatch.setattr(processes, "processors", lambda: 1)
    assert count() == 1


@pytest.mark.slow
def test_a_shared_run_ends_with_the_records_of_one_process_also_if_the_other_is_killed(
    photographs, tmp_path, monkeypatch
):
    ids, given = ("fig3", "fig4a", "fig9"), options(photographs)
    for count in (1, 2):
        vitreg.reproduce(ids, out=tmp_path / str(count), options=given, processes=count)
    started = processes._started

    def killed(*words):
        process = started(*words)
        until(lambda: list((tmp_path / "killed" / "runs").glob("*")))
        os.kill(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(processes, "_started", killed)
    vitreg.reproduce(ids, out=tmp_path / "killed", options=given, processes=2)
    one = kept(tmp_path / "1")
    assert one == kept(tmp_path / "2") == kept(tmp_path / "killed")
