"""A run of `reproduce` that is killed goes on, and ends with the records of one that was not; two processes share a run.

With trained models and ten random moments: `trained/test_killed_at_random.py`.
"""

import os
import signal

import pytest
from tests.apart import end_of
from tests.patience import until
from tests.unit.experiments.killed import kept, life

import vitreg
from vitreg.analysis.tally import Tally

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "blank_figures", "undrawn")
TWO = ("fig3", "fig4a")
MODELS = ("planted:high-norm", "planted:clean")


def words(photographs, out):
    images = tuple(map(str, photographs[:6]))
    return {"out": out, "models": MODELS, "size": 64, "images": images, "batch_size": 2, "workers": 0}


def test_two_kills(photographs, tmp_path):
    """In the second batch of a scan, and while the result is moved into place."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    vitreg.reproduce(TWO, **words(photographs, whole))
    for event, at in (("scanning", 2), ("writing", 3)):
        assert life(lambda: vitreg.reproduce(TWO, **words(photographs, out)), event, at) == -signal.SIGKILL
    begun = []
    vitreg.reproduce(TWO, started=lambda job: begun.append(job.name), **words(photographs, out))
    assert not begun, "both scans were done"
    assert kept(out) == kept(whole)


def sharing(photographs, out, told, *, killed=False):
    """Run in a forked process, which tells each job that it begins, and may be killed in its first scan."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if killed:
            add = Tally.add

            def dies(self, batch):
                (told / "inside").touch()
                until((told / "waits").exists)
                os.kill(os.getpid(), signal.SIGKILL)
                add(self, batch)

            Tally.add = dies

        def begins(job):
            with (told / "begun").open("a") as file:
                file.write(f"{os.getpid()} {job.name}\n")

        vitreg.reproduce(TWO, started=begins, waits=lambda _: (told / "waits").touch(), **words(photographs, out))
        code = 0
    finally:
        os._exit(code)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_two_processes_share_a_run_and_no_job_is_done_twice(photographs, tmp_path):
    out = tmp_path / "out"
    children = [sharing(photographs, out, tmp_path) for _ in range(2)]
    assert [ended(child) for child in children] == [0, 0]
    begun = [line.partition(" ")[2] for line in (tmp_path / "begun").read_text().splitlines()]
    assert sorted(begun) == sorted(f"scan of {model}" for model in MODELS)
    assert vitreg.reproduce((), out=out, only="claims").experiments


def test_one_is_killed_and_the_other_takes_over(photographs, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    first = sharing(photographs, out, tmp_path, killed=True)
    until((tmp_path / "inside").exists)
    second = sharing(photographs, out, tmp_path)
    assert ended(first) == -signal.SIGKILL
    assert ended(second) == 0
    begun = (tmp_path / "begun").read_text().splitlines()
    assert [line.partition(" ")[2] for line in begun if line.startswith(f"{second} ")] == [
        f"scan of {each}"
        for each in reversed(MODELS)  # what nobody was at came first
    ]
    assert end_of(lambda: vitreg.reproduce(TWO, **words(photographs, whole))) == 0
    assert kept(out) == kept(whole)
