"""The source, tests and documents have rooms: folders of few files, and files that are read in one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 15, 400, 60
GROWING = {"CHANGELOG.md"}
"""Documents that grow with time, as lab/LOG.md does, and are not read from end to end."""


def crowded(place):
    """Folders of a place with too many files, `__init__.py` counted; hidden ones and caches are not of the project."""
    for folder in (place, *place.rglob("*/")):
        inside = folder.relative_to(place.parent).parts
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        if len(files) > MOST_FILES and not any(name.startswith((".", "__pycache__")) for name in inside):
            yield f"{'/'.join(inside)} has {len(files)} files"


def long_files(place, kind="*.py"):
    for path in place.rglob(kind):
        if (lines := path.read_text().count("\n")) > MOST_LINES:
            yield f"{path.relative_to(place.parent)} has {lines} lines"


def long_functions(place):
    for path in place.rglob("*.py"):
        for each in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(each, ast.FunctionDef)
                and (lines := each.end_lineno - each.lineno) >= MOST_LINES_OF_A_FUNCTION
            ):
                yield f"{path.relative_to(place.parent)}::{each.name} has {lines + 1} lines"


@pytest.mark.parametrize("place", ["src", "tests", "docs"])
def test_folders_have_few_files(place):
    assert list(crowded(ROOT / place)) == []


def test_files_of_tests_are_short():
    assert list(long_files(ROOT / "tests")) == []


def test_functions_of_tests_are_short():
    """Helpers too: a record that is made up has its parts in functions."""
    assert list(long_functions(ROOT / "tests")) == []


def test_documents_are_short():
    assert list(long_files(ROOT / "docs", "*.md")) == []
    first = [path for path in ROOT.glob("*.md") if path.name not in GROWING]
    assert [path.name for path in first if path.read_text().count("\n") > MOST_LINES] == []


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


def test_a_long_function_and_a_long_document_are_found(tmp_path):
    (tmp_path / "made.py").write_text("def few():\n" + "    0\n" * 59 + "\n\ndef many():\n" + "    0\n" * 60)
    (tmp_path / "read.md").write_text("\n" * 401)
    assert list(long_functions(tmp_path)) == [f"{tmp_path.name}/made.py::many has 61 lines"]
    assert list(long_files(tmp_path, "*.md")) == [f"{tmp_path.name}/read.md has 401 lines"]
