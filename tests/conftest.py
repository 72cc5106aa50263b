"""Shared fixtures: the test data that lies outside the repository, and photographs that ship with scikit-image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .shipped import write_photographs, write_voc

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    folder = Path(os.environ.get("VITREG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set VITREG_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photographs of scikit-image and crops of them, alone in a folder."""
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of VOC 2012: 8 training and 8 validation images with boxes and masks."""
    return write_voc(tmp_path_factory.mktemp("made") / "voc2012")
