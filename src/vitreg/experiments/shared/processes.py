"""Processes beside this one that share a run: they measure what nobody has measured, and this one judges and draws.

Each is a fresh Python that imports nothing of the user's, so a script without a guarded main, and a notebook, can share too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

from vitreg.experiments.shared.run import Run
from vitreg.machine.processors import processors
from vitreg.passes.jobs import Jobs

PATIENCE = 60.0  # seconds for a training to write its checkpoint, before its process is killed


def processes_of(run: Run, device: str) -> int:
    """Return how many processes share a run: two for the small models of the smoke scale on a CPU, else one.

    Two of them on models of the user's would need twice the memory.
    """
    options = run.options
    if options.processes is not None:
        return options.processes
    small = options.scale == "smoke" and not options.models
    return 2 if small and device == "cpu" and processors() > 1 and run.measures else 1


@contextmanager
def beside(count: int, run: Run) -> Generator[None, None, None]:
    """Share a run with other processes while the block runs, all with the same part of the threads.

    One that dies leaves its work to the rest.
    """
    if not count:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    each = max(1, threads // (count + 1))
    others = [_started(run, each) for _ in range(count)]
    torch.set_num_threads(each)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for process in others:
            process.terminate()  # SIGTERM: a training writes a checkpoint
        for process in others:
            _end(process)


def _started(run: Run, threads: int) -> subprocess.Popen[bytes]:
    given = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | given,
    )  # fmt: skip
    assert process.stdin is not None
    with process.stdin:
        pickle.dump(run, process.stdin)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def work(run: Run) -> None:
    """Measure, and write nothing but the rows of jobs."""
    with Jobs(run.folder) as jobs:
        for _ in run.records(jobs):
            pass


if __name__ == "__main__":
    work(pickle.load(sys.stdin.buffer))
