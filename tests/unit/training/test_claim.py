"""One process trains in a folder, its death frees it at once, and a start that failed leaves the folder as it was."""

import errno
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass, field

import pytest
from tests.patience import PATIENCE

from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.training import claim as module
from vitreg.training.claim import LOCK, Claim, claimed
from vitreg.writing.ledger import LEDGER, note_written, read_ledger

ALONE = Processes()
BEGUN = [LEDGER, "checkpoints", "config.json", "metrics.jsonl", "model.safetensors", "tensorboard"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)


def test_a_second_claim_names_who_has_the_folder(tmp_path):
    first = Claim(tmp_path)
    with pytest.raises(UserError) as error:
        Claim(tmp_path)
    assert f"process {os.getpid()} on {socket.gethostname()} is training in {tmp_path}" in str(error.value)
    first.release()
    assert not list(tmp_path.iterdir())
    Claim(tmp_path).release()


def test_what_a_dead_process_left_in_the_file_blocks_nobody(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on another-machine-with-a-long-name\n")
    claim = Claim(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    claim.release()


def _train_with_a_worker(folder, said):
    claim = Claim(folder)
    worker = os.fork()
    if not worker:
        time.sleep(PATIENCE)
        os._exit(0)
    said.send(worker)
    time.sleep(PATIENCE)
    claim.release()


def test_kill_9_frees_the_folder_though_a_data_worker_lives_on(tmp_path):
    context = multiprocessing.get_context("fork")
    listening, said = context.Pipe(duplex=False)
    process = context.Process(target=_train_with_a_worker, args=(tmp_path, said), daemon=True)
    process.start()
    assert listening.poll(PATIENCE)
    worker = listening.recv()
    try:
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            Claim(tmp_path)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        os.kill(worker, 0)  # still there
        Claim(tmp_path).release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_file_that_its_owner_removed_in_between_is_no_lock(tmp_path, monkeypatch):
    real, calls = module.fcntl.flock, []

    def flock(descriptor, operation):
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    claim = Claim(tmp_path)
    assert len(calls) == 2
    with pytest.raises(UserError):
        Claim(tmp_path)
    claim.release()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


THEIRS = ["my notes", "process 7 on this host\nand more of it", "process notes\n"]


@pytest.mark.parametrize("text", THEIRS)
def test_a_file_of_the_locks_name_that_is_somebodys_is_left_as_it_is(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(UserError, match="is not the lock that vitreg keeps there"):
        Claim(tmp_path)
    assert (tmp_path / LOCK).read_text() == text


@pytest.mark.parametrize("make", ["symlink_to", "hardlink_to"])
def test_a_lock_is_written_through_no_link(tmp_path, make):
    (tmp_path / "mine.txt").write_text("")
    getattr(tmp_path / LOCK, make)(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="is not the lock that vitreg keeps there"):
        Claim(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == ""
    assert names(tmp_path) == [LOCK, "mine.txt"]


def test_a_folder_or_a_pipe_of_the_locks_name_is_refused(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="is not the lock"):
        Claim(tmp_path)
    (tmp_path / LOCK).rmdir()
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(UserError, match="is not the lock"):
        Claim(tmp_path)
    assert names(tmp_path) == [LOCK]


def test_a_lock_file_of_the_users_is_not_vitregs_business(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    Claim(tmp_path).release()
    assert (tmp_path / ".lock").read_text() == "mine"


def test_what_took_the_place_of_the_lock_is_not_removed_with_it(tmp_path):
    claim = Claim(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).write_text("mine")
    claim.release()
    assert (tmp_path / LOCK).read_text() == "mine"


def test_without_locks_there_is_a_note(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    claim = Claim(tmp_path)
    assert "file system without locks (No locks available)" in claim.notes[0]
    assert not list(tmp_path.iterdir())
    claim.release()
    monkeypatch.setattr(module, "fcntl", None)
    assert "no flock on this system" in Claim(tmp_path).notes[0]


def begin(folder):
    """What a run writes before its first step."""
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("ours")
    note_written(folder, ["config.json", "model.safetensors"], "train")
    (folder / "metrics.jsonl").write_text('{"kind": "norms", "step": 0}\n')
    for name in ("checkpoints", "tensorboard"):
        (folder / name).mkdir()
    (folder / "tensorboard" / f"events.out.tfevents.17.{socket.gethostname()}.{os.getpid()}.0").write_text("ours")


def test_a_failed_start_removes_what_it_created_with_the_folders_above(tmp_path):
    def interrupted():
        with claimed(tmp_path / "a" / "b", ALONE):
            begin(tmp_path / "a" / "b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not names(tmp_path)


def test_a_failed_start_in_a_folder_that_was_there_leaves_what_was_in_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("theirs")
    (tmp_path / "notes.txt").write_text("theirs")

    def failing():
        with claimed(tmp_path, ALONE):
            (tmp_path / "config.json").write_text("ours")
            note_written(tmp_path, ["config.json"], "train")
            raise UserError("no.")

    with pytest.raises(UserError, match=r"^no\.$"):
        failing()
    assert names(tmp_path) == ["metrics.jsonl", "notes.txt"]


def test_what_somebody_put_there_while_a_start_failed_stays(tmp_path):
    theirs = ["config.json", "model.safetensors", "metrics.jsonl", "checkpoints/step-00000001/a", "tensorboard/events"]

    def failing():
        with claimed(tmp_path, ALONE):
            for name in theirs:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text('{"kind": "train", "step": 12}\n')
            raise UserError("no.")

    with pytest.raises(UserError, match=r"^no\.$"):
        failing()
    assert [name for name in theirs if not (tmp_path / name).is_file()] == []


def test_what_was_learned_stays(tmp_path):
    def failing():
        with claimed(tmp_path / "run", ALONE) as claim:
            assert claim is not None
            begin(tmp_path / "run")
            claim.keep()
            raise UserError("no.")

    with pytest.raises(UserError, match=r"^no\.$"):
        failing()
    assert names(tmp_path / "run") == BEGUN


@dataclass
class Second:
    """The second of two processes, which hears from the first."""

    heard: object
    first: bool = False
    said: list = field(default_factory=list)

    def gather(self, value):
        self.said.append(value)
        return [self.heard, value]


def test_the_other_processes_hear_of_a_refusal_and_take_no_lock(tmp_path):
    with pytest.raises(UserError, match=r"^taken\.$"), claimed(tmp_path, Second(UserError("taken."))):
        raise AssertionError("is not reached")
    holder = Claim(tmp_path)
    with claimed(tmp_path, Second(None)) as claim:
        assert claim is None
    assert names(tmp_path) == [LOCK]
    holder.release()


def test_a_start_that_waited_for_another_run_removes_nothing_of_it(tmp_path, monkeypatch):
    """The other is at its end while this one waits: what lies there when the lock is free is the other's."""
    folder, real = tmp_path / "run", module.fcntl.flock

    def flock(descriptor, operation):
        if not (folder / "config.json").exists():
            begin(folder)
        real(descriptor, operation)

    def refused():
        with claimed(folder, ALONE):
            raise UserError("it holds a run already.")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.raises(UserError, match="already"):
        refused()
    assert names(folder) == BEGUN


def test_what_another_verb_wrote_meanwhile_stays_known_as_vitregs(tmp_path):
    def failing():
        with claimed(tmp_path, ALONE):
            begin(tmp_path)
            (tmp_path / "report.html").write_text("page")
            note_written(tmp_path, ["report.html"], "curves")
            raise UserError("no.")

    with pytest.raises(UserError, match=r"^no\.$"):
        failing()
    assert names(tmp_path) == [LEDGER, "report.html"]
    assert list(read_ledger(tmp_path).files) == ["report.html"]


def test_without_a_lock_a_failed_start_removes_no_files_that_may_be_anothers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fcntl", None)

    def failing():
        with claimed(tmp_path, ALONE):
            begin(tmp_path)
            raise UserError("no.")

    with pytest.raises(UserError, match=r"^no\.$"):
        failing()
    assert names(tmp_path) == BEGUN
