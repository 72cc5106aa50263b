"""Run something in processes of its own, forked from this one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.distributed import TCPStore


def apart(do: Callable[[], object]) -> None:
    """Run what leaves threads behind, such as a compiled model: other tests fork, and autograd refuses that beside threads."""
    assert end_of(do) == 0, "it failed; its traceback is on standard error"


def end_of(do: Callable[[], object]) -> int:
    """Run something that may be killed on the way, which is quicker than in a new process that imports torch.

    Returns:
        0, 1 if it raised an error, or the number of the signal that ended it, negative.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        do()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def printed(do: Callable[[], object]) -> str:
    """What something prints in a process forked from this one, which must end well. Its limits bind it alone."""
    with tempfile.TemporaryFile("w+") as out:

        def to_file() -> None:
            os.dup2(out.fileno(), 1)
            with contextlib.redirect_stdout(out):
                do()
            out.flush()

        assert end_of(to_file) == 0, "it failed; its traceback is on standard error"
        out.seek(0)
        return out.read()


def on_two(do: Callable[..., object], *words: object) -> None:
    """Run do(rank, *words) on two processes. Those of a GPU's machine import torch anew: autograd refuses forks there."""
    start = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(do, words, 2, start_method=start)


@contextmanager
def meeting() -> Iterator[dict[str, str]]:
    """Give the environment by which two processes meet, as torchrun's agent does.

    The port is served from here on. One that is found free and named to them can be taken before they listen.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    yield {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
