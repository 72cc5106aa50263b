import pytest

from vitreg.errors import UserError
from vitreg.files import results_folder


def test_what_a_failed_block_made_and_left_empty_goes_again(tmp_path):
    with pytest.raises(UserError), results_folder(tmp_path / "a" / "b") as folder:
        assert folder is not None
        assert folder.is_dir()
        raise UserError("no")
    assert not list(tmp_path.iterdir())


def test_what_was_there_or_holds_something_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt), results_folder(tmp_path / "mine" / "new") as folder:
        (folder / "kept.txt").write_text("kept")
        raise KeyboardInterrupt
    assert (tmp_path / "mine" / "new" / "kept.txt").exists()
    with pytest.raises(UserError), results_folder(tmp_path / "mine"):
        raise UserError("no")
    assert (tmp_path / "mine").is_dir()


def test_an_empty_result_of_a_block_that_ends_well_stays(tmp_path):
    with results_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()
    with results_folder(None) as folder:
        assert folder is None
