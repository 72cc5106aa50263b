"""Shared fixtures: the test data that lies outside the repository, and photographs that ship with scikit-image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    folder = Path(os.environ.get("VITREG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set VITREG_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def photographs(test_data: Path) -> list[Path]:
    return sorted((test_data / "photos").glob("*.jpg"))
