"""Run something in a process of its own, forked from this one."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def apart(do: Callable[[], object]) -> None:
    """Run what leaves threads behind, such as a compiled model: other tests fork, and autograd refuses that beside threads."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it failed; its traceback is on standard error"
        return
    code = 1
    try:
        do()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
