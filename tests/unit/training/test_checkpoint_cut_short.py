"""A save that is killed, or finds its disk full, leaves the checkpoint before it."""

import errno
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.unit.training.saved import is_whole, names, save

from vitreg.training import checkpoint
from vitreg.training.checkpoint import SaveError


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
