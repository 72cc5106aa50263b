"""The source, tests and documents have rooms: folders of few files, and files that are read in one sitting."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_LINES = 15, 400


def crowded(place):
    """Folders of a place with too many files, `__init__.py` counted; hidden ones and caches are not of the project."""
    for folder in (place, *place.rglob("*/")):
        inside = folder.relative_to(place.parent).parts
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        if len(files) > MOST_FILES and not any(name.startswith((".", "__pycache__")) for name in inside):
            yield f"{'/'.join(inside)} has {len(files)} files"


def long_files(place):
    for path in place.rglob("*.py"):
        if (lines := path.read_text().count("\n")) > MOST_LINES:
            yield f"{path.relative_to(place.parent)} has {lines} lines"


@pytest.mark.parametrize("place", ["src", "tests", "docs"])
def test_folders_have_few_files(place):
    assert list(crowded(ROOT / place)) == []


def test_files_of_tests_are_short():
    assert list(long_files(ROOT / "tests")) == []


def test_a_crowded_folder_and_a_long_file_are_found(tmp_path):
    room = tmp_path / "tests" / "room"
    room.mkdir(parents=True)
    for number in range(15):
        (room / f"test_{number}.py").write_text("\n" * 400)
    assert [*crowded(room.parent), *long_files(room.parent)] == []
    (room / "picture.png").touch()
    (room / "test_0.py").write_text("\n" * 401)
    assert [*crowded(room.parent), *long_files(room.parent)] == [
        "tests/room has 16 files",
        "tests/room/test_0.py has 401 lines",
    ]
