"""A checkpoint is there as a whole or not at all, comes back bit for bit, and a damaged one is noticed."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from vitreg.backbones.loading.load import load
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.settings import OptimConfig
from vitreg.training import checkpoint
from vitreg.training.checkpoint import OptimizerState, SaveError
from vitreg.training.optim import build_optimizer
from vitreg.training.parallel import wrap
from vitreg.training.tensors import read_tensors, write_tensors


def weights(step, size=64):
    return {"layer.weight": torch.full((size, 4), float(step)), "layer.bias": torch.arange(4) + step}


def save(run, step, *, keep=2, size=64, **more):
    moments = OptimizerState({"layer.weight/exp_avg": torch.full((size, 4), -float(step))})
    return checkpoint.save(run, weights(step, size), moments, {"step": step, **more}, keep)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def is_whole(loaded):
    expected = weights(loaded.step, len(loaded.model["layer.weight"]))
    moments = loaded.optimizer.tensors["layer.weight/exp_avg"]
    return all(torch.equal(loaded.model[k], v) for k, v in expected.items()) and bool((moments == -loaded.step).all())


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


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 4
    path.write_bytes(data)


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


# Death and full disks


class Killed(BaseException):
    """Nothing runs after it, not even what tidies up."""


def killed_at(monkeypatch, count):
    """Let the process die at the n-th call that changes the disk."""
    calls = iter(range(1, 10_000))

    def fatal(real):
        def call(*args, **kwargs):
            if next(calls) >= count:
                raise Killed
            return real(*args, **kwargs)

        return call

    for owner, name in [(os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "open"), (shutil, "rmtree")]:
        monkeypatch.setattr(owner, name, fatal(getattr(owner, name)))


@pytest.mark.parametrize("step", [2, 1], ids=["a new step", "the same step again"])
def test_killed_at_any_moment_a_whole_checkpoint_is_left(tmp_path, step):
    outcomes = []
    for count in range(1, 100):
        run = tmp_path / str(count)
        save(run, 1, keep=1)
        with pytest.MonkeyPatch.context() as patched:
            killed_at(patched, count)
            try:
                save(run, step, keep=1)
                died = False
            except Killed:
                died = True
        loaded = checkpoint.load_newest(run)
        assert is_whole(loaded)
        outcomes.append(loaded.step)
        assert is_whole(checkpoint.load_newest(run))
        save(run, 3, keep=1)
        assert names(run) == ["step-00000003"]
        if not died:
            break
    assert count > 10  # it died in many places,
    assert outcomes[0] == 1  # the first before anything was there,
    assert outcomes[-1] == step  # and once not at all
    assert sorted(outcomes) == outcomes


def test_a_real_kill_leaves_the_last_checkpoint(tmp_path):
    save(tmp_path, 1)
    child = os.fork()
    if child == 0:
        real = os.fsync
        os.fsync = lambda handle: (real(handle), os.kill(os.getpid(), signal.SIGKILL))
        save(tmp_path, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert names(tmp_path) == [".step-00000002.part", "step-00000001"]
    assert checkpoint.load_newest(tmp_path).step == 1
    checkpoint.clean(tmp_path)
    assert names(tmp_path) == ["step-00000001"]


def assert_the_first_one_is_left(run, size=64):
    with pytest.raises(SaveError, match=r"cannot write the checkpoint of step 2 .*step-00000001 is untouched") as error:
        save(run, 2, size=size)
    assert names(run) == ["step-00000001"]
    assert is_whole(checkpoint.load_newest(run))
    return str(error.value)


def test_a_full_disk_leaves_the_last_checkpoint_and_no_remains(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "No space left on device" in assert_the_first_one_is_left(tmp_path)
    assert save(tmp_path, 2).is_dir()


def test_bytes_lost_without_a_word_are_noticed(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: os.ftruncate(handle, 10))
        assert "only 10 of" in assert_the_first_one_is_left(tmp_path)


def test_a_write_the_system_cuts_short_is_an_error(tmp_path):
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # a write across the limit is short, the next fails
    try:
        assert_the_first_one_is_left(tmp_path, size=50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_really_full(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        save(disk, 1)
        assert "No space left on device" in assert_the_first_one_is_left(disk, size=50_000)
        assert save(disk, 2).is_dir()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Optimisers


def train(name, steps, resumed=None):
    """A few steps of a small network; returns its weights, its moments, and what a checkpoint of it holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    names, params = zip(*model.named_parameters(), strict=True)
    groups = [ParamGroup(names[:2], params[:2]), ParamGroup(names[2:], params[2:], module="head")]
    optimizer = build_optimizer(groups, OptimConfig(name=name))
    wrapped = wrap(model, "none", torch.device("cpu"), torch.float32)
    start = 0
    if resumed is not None:
        start = resumed.step
        wrapped.load(resumed.model)
        wrapped.load_optimizer(optimizer, groups, resumed.optimizer)
    for step in range(start, steps):
        for options in optimizer.param_groups:
            options["lr"] = 0.01
        draw = torch.Generator().manual_seed(step)
        model(torch.randn(8, 5, generator=draw)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped, optimizer, groups


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, name):
    wrapped, optimizer, groups = train(name, 3)
    checkpoint.save(tmp_path, wrapped.state(), wrapped.optimizer_state(optimizer, groups), {"step": 3}, 1)
    (straight, one, groups), (resumed, other, _) = train(name, 6), train(name, 6, checkpoint.load_newest(tmp_path))
    assert all(torch.equal(value, straight.state()[key]) for key, value in resumed.state().items())
    moments, again = straight.optimizer_state(one, groups), resumed.optimizer_state(other, groups)
    assert len(moments.tensors) == {"adamw": 6 * 3, "lamb": 6 * 2 + 2}[name]  # LAMB counts steps by group
    assert moments.tensors.keys() == again.tensors.keys()
    for key, value in moments.tensors.items():
        assert again.tensors[key].dtype == value.dtype
        assert torch.equal(again.tensors[key], value)


def test_weights_and_moments_of_another_recipe_are_a_users_mistake():
    wrapped, optimizer, groups = train("adamw", 1)
    state, moments = wrapped.state(), wrapped.optimizer_state(optimizer, groups)
    with pytest.raises(UserError, match=r"1 tensors do not fit, such as 0\.bias"):
        wrapped.load({key: value for key, value in state.items() if key != "0.bias"})
    with pytest.raises(UserError, match=r"0\.bias"):
        wrapped.load(state | {"0.bias": torch.zeros(9)})
    with pytest.raises(UserError, match=r"1\.weight, 1\.bias|1\.bias, 1\.weight"):
        wrapped.load_optimizer(optimizer, groups[:1], moments)


# Publishing


def test_a_published_backbone_is_loaded_by_scan(tmp_path):
    config = ModelConfig(width=32, depth=2, heads=2, image_size=32, registers=3, register_positions=True)
    torch.manual_seed(1)
    vit = VisionTransformer(**config.arguments()).eval()
    nn.init.normal_(vit.reg_pos)
    for _ in range(2):  # a later one takes its place
        checkpoint.publish(
            tmp_path, vit.published_state(), {"model": config.published_arguments(), "train": {"optim": {"lr": 0.1}}}
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vitreg.json", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["train"] == {"optim": {"lr": 0.1}}
    images = torch.randn(2, 3, 32, 32)
    again = load(f"run:{tmp_path}", device="cpu", precision="fp32").module
    torch.testing.assert_close(again.forward_features(images), vit.forward_features(images))
    with pytest.raises(ValueError, match="model"):
        checkpoint.publish(tmp_path, vit.published_state(), {})


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
