import os

import pytest

from vitreg.errors import UserError
from vitreg.writing.files import results_folder, write_text


def fail_in(path, error, leaves=None):
    with results_folder(path) as folder:
        assert folder.is_dir()
        if leaves:
            (folder / leaves).write_text("kept")
        raise error


def test_what_a_failed_block_made_and_left_empty_goes_again(tmp_path):
    with pytest.raises(UserError):
        fail_in(tmp_path / "a" / "b", UserError("no"))
    assert not list(tmp_path.iterdir())


def test_what_was_there_or_holds_something_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "mine" / "new", KeyboardInterrupt(), leaves="kept.txt")
    assert (tmp_path / "mine" / "new" / "kept.txt").exists()
    (tmp_path / "mine" / "new" / "kept.txt").unlink()
    (tmp_path / "mine" / "new").rmdir()
    with pytest.raises(UserError):
        fail_in(tmp_path / "mine", UserError("no"))
    assert (tmp_path / "mine").is_dir()


def test_an_empty_result_of_a_block_that_ends_well_stays(tmp_path):
    with results_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()
    with results_folder(None) as folder:
        assert folder is None


def test_no_link_that_waits_under_a_foreseeable_name_is_written_through(tmp_path):
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("mine")
    (tmp_path / f".result.json.{os.getpid()}.part").symlink_to(thesis)
    write_text(tmp_path / "result.json", "new")
    assert thesis.read_text() == "mine"
    assert (tmp_path / f".result.json.{os.getpid()}.part").is_symlink()
    assert (tmp_path / "result.json").read_text() == "new"
