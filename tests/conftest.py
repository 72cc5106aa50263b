"""Shared fixtures: the test data that lies outside the repository, and photographs that ship with scikit-image."""

from __future__ import annotations

import copy
import functools
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# One thread, set before torch is imported: tests fork, and OpenMP's threads do not live on in a forked process, which waits for them.
os.environ["OMP_NUM_THREADS"] = "1"

# How fast a machine is, and what else it does, is no property of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Listen to Ctrl-C. Where the suite is started in the background of a shell, it is ignored by inheritance.

    Processes that a test forks inherit this, those that it starts get the system's own handling: both as from a terminal.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the repetitions that are run with the slow tests."""
    from tests.repetitions import is_repetition

    for item in items:
        if is_repetition(item.nodeid):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Go back through a graph once, and leave what was collected out of later garbage collections: it stays until the end.

    Autograd starts its threads at the first backward pass. Where a model was exported or compiled before, it refuses every
    later pass in a forked process, so which tests failed would depend on their order.
    """
    if torch := sys.modules.get("torch"):
        torch.zeros(1, requires_grad=True).sum().backward()
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 40)  # a full collection takes 0.14 s, and they were a twentieth of the time


@pytest.fixture(scope="session")
def test_data() -> Path:
    folder = Path(os.environ.get("VITREG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set VITREG_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photographs of scikit-image and crops of them, alone in a folder."""
    from .shipped import write_photographs  # imports torch, which the process that only hands tests out does not need

    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of VOC 2012: 8 training and 8 validation images with boxes and masks."""
    from .shipped import write_voc

    return write_voc(tmp_path_factory.mktemp("made") / "voc2012")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans leave their page and figures out, for tests of what comes before: drawing takes longer than all of that."""
    monkeypatch.setattr("vitreg.verbs.scan.verb._draw", lambda _outputs, result, *_seen: result)


# Savings for all tests of a file, which it asks for by `pytestmark`.


@pytest.fixture(scope="module")
def coarse_figures() -> Iterator[None]:
    """Figures have few pixels, for tests that look at where files lie and not at what they show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitreg.report.paper.DPI", 40)
        yield


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Figures are PNG files with nothing in them, for tests that look at their names only."""
    from matplotlib.figure import Figure
    from PIL import Image

    def save(_figure: Figure, file: Any, **_words: Any) -> None:
        Image.new("RGB", (64, 64)).save(file, format="png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Images are resampled ten times, not a hundred, for tests that don't look at how far resamples agree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitreg.analysis.verdict.resampling.RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def planted_once() -> Iterator[None]:
    """Planted models are copies of one that was built before: many tests load one.

    A test of how they are built gives `build_machinery` back.
    """
    from vitreg.models import planted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "build_machinery", lambda *words: copy.deepcopy(_built(*words)))
        yield


@pytest.fixture(scope="module", autouse=True)
def _planted_once(request: pytest.FixtureRequest) -> None:
    """So they are in every file; without torch, a file has nothing to save."""
    if "torch" in sys.modules:
        request.getfixturevalue("planted_once")


@functools.lru_cache(maxsize=12)
def _built(*words: int) -> object:
    from vitreg.models.planted_weights import build_machinery

    return build_machinery(*words)
