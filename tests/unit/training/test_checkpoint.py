"""A checkpoint is there as a whole or not at all, comes back bit for bit, and a damaged one is noticed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.unit.training.saved import flip, is_whole, names, save, weights

from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.training import checkpoint
from vitreg.training.checkpoint import OptimizerState
from vitreg.training.tensors import read_tensors, write_tensors

# What is written


def test_a_folder_of_somebodys_in_the_way_of_a_save_is_renamed(tmp_path):
    theirs = tmp_path / "checkpoints" / ".step-00000007.part"
    theirs.mkdir(parents=True)
    (theirs / "notes.txt").write_text("theirs")
    save(tmp_path, 7)
    assert names(tmp_path) == [".step-00000007.part.kept-1", "step-00000007"]
    assert (theirs.with_name(f"{theirs.name}.kept-1") / "notes.txt").read_text() == "theirs"


def test_state_comes_back_as_it_was(tmp_path):
    state = {
        "step": 7,
        "config": {"optim": {"lr": 0.1 + 0.2}},
        "scaler": {"scale": 65536.0},
        "skipped": 3,
        "metric": 0.5,
    }
    moments = OptimizerState(
        {"w/step": torch.tensor(7.0)}, {"w": {"count": 3}}, [{"names": ["w"], "counters": {"step": 7}}]
    )
    path = checkpoint.save(tmp_path, weights(7), moments, state, 1)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    loaded = checkpoint.load_newest(tmp_path)
    assert (loaded.path, loaded.step, loaded.notes) == (path, 7, ())
    assert {key: loaded.state[key] for key in state} == state
    assert loaded.optimizer.scalars == moments.scalars
    assert loaded.optimizer.groups == moments.groups
    assert loaded.optimizer.tensors["w/step"].shape == ()
    written = json.loads((path / "state.json").read_text())
    assert written["schema"] == "vitreg.checkpoint/1"
    assert written["files"]["model.safetensors"]["bytes"] == (path / "model.safetensors").stat().st_size


def test_files_are_those_of_the_safetensors_library(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "wide": torch.randn(3, 5, generator=draw).double(), "half": torch.randn(7, generator=draw).half(),
        "brain": torch.randn(2, 3, generator=draw).bfloat16(), "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5), "none": torch.zeros(0, 4), "count": torch.tensor(3), "byte": torch.arange(5).byte(),
        "turned": torch.randn(4, 6, generator=draw).T, "row": torch.randn(4, 6, generator=draw)[1],
    }  # fmt: skip
    write_tensors(tmp_path / "ours", tensors)
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "theirs")
    for read in (safetensors.torch.load_file(tmp_path / "ours"), read_tensors(tmp_path / "theirs")):
        assert read.keys() == tensors.keys()
        for name, value in tensors.items():
            assert read[name].dtype == value.dtype
            assert torch.equal(read[name], value)
    header = (tmp_path / "ours").read_bytes()[8:]
    offsets = json.loads(header[: int.from_bytes((tmp_path / "ours").read_bytes()[:8], "little")])
    del offsets["__metadata__"]
    assert all(entry["data_offsets"][0] % tensors[name].element_size() == 0 for name, entry in offsets.items())


def test_tied_weights_are_written_once_and_tied_again(tmp_path):
    shared = torch.randn(1000, 4)
    size = write_tensors(tmp_path / "file", {"a": shared, "b": shared, "part": shared[:2], "c": shared.clone()}).bytes
    assert size < 2.2 * shared.nbytes
    read = read_tensors(tmp_path / "file")
    assert read["a"] is read["b"]
    assert read["a"] is not read["c"]
    assert all(torch.equal(read[name], value) for name, value in {"a": shared, "c": shared, "part": shared[:2]}.items())


def test_a_dtype_the_format_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="complex64"):
        write_tensors(tmp_path / "file", {"z": torch.zeros(2, dtype=torch.complex64)})


@pytest.mark.parametrize("state", [{"step": 1, "files": {}}, {"step": 1, "config": Path("x")}])
def test_state_that_cannot_be_written_leaves_nothing(tmp_path, state):
    with pytest.raises((ValueError, TypeError)):
        checkpoint.save(tmp_path, weights(1), OptimizerState(), state, 1)
    assert not (tmp_path / "checkpoints").exists() or names(tmp_path) == []


# Which are kept


def test_the_newest_are_kept_and_the_best(tmp_path):
    for step, metric in [(1, 0.1), (2, 0.9), (3, float("inf")), (4, 0.3), (5, None), (6, float("nan"))]:
        save(tmp_path, step, metric=metric)
    assert names(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    assert checkpoint.best(tmp_path).name == "step-00000002"
    assert checkpoint.latest(tmp_path).name == "step-00000006"


def test_of_equally_good_ones_the_newest_is_best(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3, metric=0.5)
    assert checkpoint.best(tmp_path).name == "step-00000003"


def test_without_checkpoints_there_is_no_latest_and_no_best(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.best(tmp_path) is None


def test_damaged_ones_do_not_count_among_the_kept_and_are_left_to_the_user(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    os.truncate(tmp_path / "checkpoints/step-00000002/model.safetensors", 99)
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    save(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000004"]


CHANGES = {
    "a note of the user": lambda path: (path / "notes.txt").write_text("the good one"),
    "a changed weight": lambda path: flip(path / "model.safetensors"),
    "other weights": lambda path: (path / "optimizer.safetensors").write_bytes(b"mine"),
    "no state": lambda path: (path / "state.json").unlink(),
    "nothing of ours": lambda path: [
        (file.unlink(), file.with_name("mine").write_text("x")) for file in path.iterdir()
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_checkpoint_that_is_not_as_it_was_written_is_never_removed(tmp_path, change):
    save(tmp_path, 1)
    changed = tmp_path / "checkpoints/step-00000001"
    change(changed)
    before = {path.name: path.read_bytes() for path in changed.iterdir()}
    for step in (2, 3):
        save(tmp_path, step, keep=1)
    assert {path.name: path.read_bytes() for path in changed.iterdir()} == before
    save(tmp_path, 1, keep=1)  # a run that went on from before it needs its name
    aside = tmp_path / "checkpoints/step-00000001.kept-1"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert names(tmp_path) == ["step-00000001", "step-00000001.kept-1"]


def test_checkpoints_of_a_copied_run_are_removed_in_their_turn(tmp_path):
    save(tmp_path / "a", 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b/checkpoints/step-00000001/state.json", ns=(1, 1))
    save(tmp_path / "b", 2, keep=1)
    assert names(tmp_path / "b") == ["step-00000002"]


def test_a_run_that_fell_back_goes_past_the_damaged_ones_ahead(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    (tmp_path / "checkpoints/step-00000002/model.safetensors").unlink()
    flip(tmp_path / "checkpoints/step-00000003/model.safetensors")  # of the right size: nobody sees it without reading
    assert checkpoint.load_newest(tmp_path).step == 1
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000002.kept-1", "step-00000003"]
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded.step == 2
    assert is_whole(loaded)


def test_steps_beyond_eight_digits_are_in_order(tmp_path):
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step)
    assert checkpoint.load_newest(tmp_path).step == 100_000_000


# Damage


def change_a_digit(path):
    text = path.read_text()
    assert text.count('"skipped": 5') == 1
    path.write_text(text.replace('"skipped": 5', '"skipped": 6'))


FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
DAMAGE = {
    **{
        f"truncated {name}": lambda p, name=name: os.truncate(p / name, (p / name).stat().st_size // 2)
        for name in FILES
    },
    **{f"bit of {name}": lambda p, name=name: flip(p / name) for name in FILES},
    **{f"no {name}": lambda p, name=name: (p / name).unlink() for name in FILES},
    **{f"empty {name}": lambda p, name=name: (p / name).write_bytes(b"") for name in FILES},
    "another digit in state.json": lambda p: change_a_digit(p / "state.json"),
    "another schema": lambda p: (p / "state.json").write_text('{"schema": "vitreg.checkpoint/9"}'),
    "a list": lambda p: (p / "state.json").write_text("[]"),
    "of another step": lambda p: shutil.copytree(p.with_name("step-00000001"), p, dirs_exist_ok=True),
    "an empty folder": lambda p: [file.unlink() for file in p.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_it_is_said(tmp_path, damage):
    for step in (1, 2):
        save(tmp_path, step, skipped=5)
    damage(tmp_path / "checkpoints" / "step-00000002")
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded.step == 1
    assert is_whole(loaded)
    assert "step-00000002 is damaged" in loaded.notes[0]
    assert "step-00000001" in loaded.notes[-1]
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000001")
    with pytest.raises(UserError, match=r"no usable checkpoint.*step-00000002 is damaged"):
        checkpoint.load_newest(tmp_path)


def test_a_folder_without_checkpoints_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no usable checkpoint"):
        checkpoint.load_newest(tmp_path)


def test_processes_that_see_different_folders_do_not_go_on(tmp_path):
    class Elsewhere(Processes):
        def gather(self, value):
            return [value, None]

    save(tmp_path, 1)
    with pytest.raises(UserError, match="different checkpoints"):
        checkpoint.load_newest(tmp_path, Elsewhere(0, 2))


FOREIGN_STATES = {
    "nested": lambda state: b"[" * 200_000,
    "not UTF-8": lambda state: b'{"schema": "\xff"}',
    "no step": lambda state: {key: value for key, value in state.items() if key != "step"},
    "a word for a step": lambda state: state | {"step": "seven"},
    "no files": lambda state: state | {"files": {}},
    "a file elsewhere": lambda state: (
        state | {"files": {**state["files"], "../../x": state["files"]["model.safetensors"]}}
    ),
    "a file of no size": lambda state: state | {"files": {**state["files"], "model.safetensors": {"size": 3}}},
    "a list for the optimiser": lambda state: state | {"optimizer": []},
    "a word for the metric": lambda state: state | {"metric": "good"},
}


@pytest.mark.parametrize("spoil", FOREIGN_STATES.values(), ids=FOREIGN_STATES)
def test_a_state_that_somebody_else_wrote_is_damaged_even_under_a_right_seal(spoil, tmp_path):
    path = save(tmp_path, 7, metric=0.5)
    state = json.loads((path / "state.json").read_text())
    state.pop("crc32")
    spoiled = spoil(state)
    sealed = spoiled if isinstance(spoiled, bytes) else spoiled | {"crc32": checkpoint._crc(spoiled)}
    text = sealed if isinstance(sealed, bytes) else json.dumps(sealed).encode()
    (path / "state.json").write_bytes(text)
    with pytest.raises(UserError, match=r"no usable checkpoint in .* checkpoint step-00000007 is damaged: state\.json"):
        checkpoint.load_newest(tmp_path)
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.best(tmp_path) is None
