"""A job is done once, whoever asks, whatever is killed, and by one of several processes."""

import errno
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.apart import end_of
from tests.patience import until

from vitreg.errors import UserError
from vitreg.passes.jobs import Job, Jobs

A, B, C = (Job(name, {"what": name}) for name in "abc")


def counting(path, outcome=None):
    def work(folder):
        with path.open("a") as file:
            file.write("x")
        if isinstance(outcome, BaseException):
            raise outcome
        (folder / "made.txt").write_text("made")
        return {"value": outcome}

    return work


def times(path):
    return len(path.read_text()) if path.exists() else 0


def test_a_job_is_done_once_and_its_row_is_read_again(tmp_path):
    ran = tmp_path / "ran"
    with Jobs(tmp_path / "out") as jobs:
        first = jobs.do(A, counting(ran, 3))
        assert jobs.do(A, counting(ran, 4)) == first
        assert (jobs.files(A) / "made.txt").read_text() == "made"
    with Jobs(tmp_path / "out") as jobs:
        assert jobs.do(A, counting(ran, 5)).found == {"value": 3}
    assert times(ran) == 1


def test_other_settings_are_another_job_and_the_order_of_their_names_is_not():
    assert Job("a", {"x": 1, "y": 2}).key == Job("b", {"y": 2, "x": 1}).key != Job("a", {"x": 1, "y": 3}).key


@pytest.mark.parametrize("error", [UserError("no such data."), ValueError("four\nlines"), ZeroDivisionError()])
def test_a_job_that_fails_is_a_row_the_others_go_on_and_the_next_run_tries_again(error, tmp_path):
    ran = tmp_path / "ran"
    with Jobs(tmp_path / "out") as jobs:
        rows = list(jobs.each([(A, counting(ran, error)), (B, counting(tmp_path / "b", 1))]))
        assert [bool(row.failed) for row in rows] == [True, False]
        assert "\n" not in rows[0].failed
        assert jobs.do(A, counting(ran, 1)).failed  # in the same run it is not tried again
    assert times(ran) == 1
    with Jobs(tmp_path / "out") as jobs:
        assert not jobs.do(A, counting(ran, 1)).failed
    assert times(ran) == 2


def test_ctrl_c_leaves_no_row(tmp_path):
    ran = tmp_path / "ran"
    with Jobs(tmp_path / "out") as jobs, pytest.raises(KeyboardInterrupt):
        jobs.do(A, counting(ran, KeyboardInterrupt()))
    with Jobs(tmp_path / "out") as jobs:
        assert jobs.row(A) is None
        assert jobs.do(A, counting(ran, 2)).found == {"value": 2}


def test_what_is_no_row_is_not_written_over(tmp_path):
    mine = tmp_path / "out" / "jobs" / f"{A.key}.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="is no row of vitreg's jobs"):
        Jobs(tmp_path / "out")
    assert mine.read_text() == "mine"


def test_a_killed_process_leaves_its_job_to_the_next_which_finds_its_files(tmp_path):
    def dies():
        def work(folder):
            (folder / "half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        with Jobs(tmp_path / "out") as jobs:
            jobs.do(A, work)

    assert end_of(dies) == -signal.SIGKILL
    with Jobs(tmp_path / "out") as jobs:
        assert jobs.do(A, lambda folder: {"left": (folder / "half.txt").read_text()}).found == {"left": "half"}


def test_two_processes_share_the_jobs_and_each_has_all_rows(tmp_path):
    """The other holds A until this one has done the rest and waits for it."""
    out, waited, ran = tmp_path / "out", tmp_path / "waited", tmp_path / "ran"

    def slow(folder):
        (tmp_path / "begun").touch()
        until(waited.exists)
        return counting(ran, "there")(folder)

    child = os.fork()
    if not child:
        code = 1
        try:
            with Jobs(out) as jobs:
                rows = list(jobs.each([(A, slow), (B, slow), (C, slow)]))
                code = int(rows[0].found["value"] != "there" or len(rows) != 3)
        finally:
            os._exit(code)
    until((tmp_path / "begun").exists)
    with Jobs(out, waits=lambda job: waited.touch()) as jobs:
        rows = list(jobs.each((job, counting(ran, "here")) for job in (A, B, C)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {row.name: row.found["value"] for row in rows} == {"a": "there", "b": "here", "c": "here"}
    assert rows[-1].name == "a"
    assert times(ran) == 3


def test_what_another_process_is_at_comes_last(tmp_path):
    out, went = tmp_path / "out", tmp_path / "went"

    def at_a():
        with Jobs(out) as jobs:
            for name in jobs.in_turn(["a", "b"]):
                (tmp_path / f"at {name}").touch()
                until(went.exists)

    child = os.fork()
    if not child:
        try:
            at_a()
        finally:
            os._exit(0)
    until((tmp_path / "at a").exists)
    with Jobs(out) as jobs:
        order = []
        for name in jobs.in_turn(["a", "b", "c"]):
            order.append(name)
            went.touch()
    os.waitpid(child, 0)
    assert order == ["b", "c", "a"]
    with Jobs(out) as jobs:
        assert list(jobs.in_turn(["a", "b"])) == ["a", "b"], "claims ended with their turns"


def test_rows_say_how_long_it_took(tmp_path):
    with Jobs(tmp_path / "out") as jobs:
        row = jobs.do(A, lambda folder: time.sleep(0.05) or {})
    assert 0.05 <= row.seconds < 5


def test_a_job_whose_files_were_removed_is_done_again(tmp_path):
    ran = tmp_path / "ran"
    with Jobs(tmp_path / "out") as jobs:
        jobs.do(A, counting(ran, 1))
        jobs.do(B, counting(ran, 1))
        shutil.rmtree(jobs.files(A))
        assert jobs.do(A, counting(ran, 2)).found == {"value": 2}
        assert jobs.do(B, counting(ran, 2)).found == {"value": 1}


@pytest.mark.parametrize("name", ["jobs", "runs"])
def test_a_file_in_the_place_of_a_folder_is_one_sentence(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is a file"):
        Jobs(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_full_disk_ends_the_run_in_one_sentence_and_the_next_goes_on(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    with Jobs(tmp_path / "out") as jobs, monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        jobs.do(A, counting(ran, 1))
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match=r"cannot write .*: No space left"):
            jobs.do(B, counting(tmp_path / "b"))
    with Jobs(tmp_path / "out") as jobs:
        assert jobs.do(A, counting(ran, 2)).found == {"value": 1}
        assert jobs.row(B) is None


def test_a_file_of_a_job_is_named_the_same_wherever_the_folder_lies(tmp_path):
    made = f"runs/{A.key}/photographs"
    with Jobs(tmp_path / "out") as jobs:
        assert jobs.within(str(tmp_path / "out" / made)) == made
        assert jobs.within(str(tmp_path / "photographs")) is None
    shutil.move(tmp_path / "out", tmp_path / "moved")
    with Jobs(tmp_path / "moved") as jobs:
        assert jobs.within(str(tmp_path / "moved" / made)) == made
