"""Run the command line as a user does, in its own process."""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def vitreg():
    def run(*arguments, cwd=None, timeout=300, prefix=(sys.executable, "-m"), env=None):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **(env or {})}
        return subprocess.run(
            [*prefix, "vitreg", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            env=environment,
            check=False,
        )

    return run


def one_sentence(done):
    """A user's mistake: exit code 2, one line on standard error, no traceback."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vitreg: ")
    return lines[0]
