"""A run that was killed before its first checkpoint begins anew; what is not its own stays."""

import json
from dataclasses import replace

import pytest

from vitreg.config import encode
from vitreg.errors import UserError
from vitreg.experiments.begun import goes_on
from vitreg.presets import preset
from vitreg.writing.ledger import note_written

CONFIG = preset("lab-retrieval")


def begun(folder, config=CONFIG):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"train": encode(config)}))
    (folder / "metrics.jsonl").write_text("")


def test_what_the_same_run_began_is_removed(tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_text("of step 0")
    note_written(tmp_path / "run", ["config.json", "model.safetensors"], "train")
    assert not goes_on(CONFIG, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/step-00000004/model.safetensors", "model.safetensors"])
def test_files_beside_it_stay(tmp_path, name):
    begun(tmp_path / "run")
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="not this run's"):
        goes_on(CONFIG, tmp_path / "run")
    assert mine.read_text() == "mine"


def test_another_run_and_no_run_stay(tmp_path):
    begun(tmp_path / "other", replace(CONFIG, run=replace(CONFIG.run, seed=9)))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "metrics.jsonl").write_text("mine")
    for folder in ("other", "none"):
        with pytest.raises(UserError):
            goes_on(CONFIG, tmp_path / folder)
        assert (tmp_path / folder / "metrics.jsonl").exists()


def test_a_link_to_a_folder_stays(tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="not this run's"):
        goes_on(CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / "link").is_symlink()
