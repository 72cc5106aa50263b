"""Run the command line as a user does: through its entry point, or in its own process where that matters."""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import pytest

from tests.patience import PATIENCE

from .made import make

CHROMIUM = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def small_lab():
    """The lab trains and looks at few images. Its processes get the settings of this one."""
    from vitreg.experiments.lab import design
    from vitreg.training.settings import changed

    whole, few = design.config_of, {"data": {"limit_val": 8}, "run": {"watch_images": 8, "batch": 4}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(design, "config_of", lambda *given: changed(whole(*given), few))
        yield


@pytest.fixture(scope="module")
def forked_lab(small_lab):
    """And its processes are forked, for tests that start many: others import torch anew."""
    start = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitreg.experiments.lab.runs.multiprocessing", start)
        yield


@pytest.fixture(scope="session")
def vitreg():
    """The entry point with its arguments, in this process: importing torch anew takes longer than most scans."""
    from vitreg.__main__ import main

    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        code, interrupts = 0, signal.getsignal(signal.SIGINT)
        with (
            mock.patch.object(sys, "argv", ["vitreg", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as stop:
                code = stop.code or 0
            finally:
                signal.signal(signal.SIGINT, interrupts)  # an interrupted command leaves it to the system
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def made(vitreg, photographs, voc, tmp_path_factory):
    """The words that stand in braces in the commands of `test_every_verb`."""
    return make(vitreg, photographs, voc, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def vitreg_process():
    """The command line in a process of its own."""

    def run(*arguments, program=(sys.executable, "-m", "vitreg"), timeout=PATIENCE):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [*program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)

    return run


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium without a window; whatever a page complains of is in its log."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian packages chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*CHROMIUM, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


def one_sentence(done):
    """A user's mistake: exit code 2, one line on standard error, no traceback."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vitreg: ")
    return lines[0]
