"""A batch follows from the seed and the step: whatever the workers, the processes, the place of resumption."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import active_children, resource_sharer
from multiprocessing.connection import Client
from multiprocessing.process import BaseProcess
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tests.patience import PATIENCE
from torch.utils.data import DataLoader

from vitreg.data.batches import training
from vitreg.data.batches.batch import TrainBatch
from vitreg.data.batches.order import Order
from vitreg.data.batches.training import evaluation_loader, training_loader
from vitreg.data.batches.workers import start_worker
from vitreg.data.sets.example import Example
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError


class Levels:
    """Pictures whose grey level is their index. Those in `broken` are unreadable."""

    def __init__(self, count: int, broken: tuple[int, ...] = (), captions: bool = False) -> None:
        self.count, self.broken, self.captions = count, broken, captions
        self.classes, self.notes = ("even", "odd"), ()
        self.labels = np.arange(count) % 2

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Example:
        if index in self.broken:
            raise Unreadable("torn in two")
        image = Image.new("RGB", (4, 4), (index, index, index))
        return Example(image, [f"{index} {k}" for k in range(3)] if self.captions else index % 2)

    def name(self, index: int) -> str:
        return f"picture {index}"


def view(image: Image.Image) -> tuple[torch.Tensor, ...]:
    """Two stacks of crops that hold the level and draws from each global generator."""
    level = image.getpixel((0, 0))[0]
    draws = [int(torch.randint(256, ())), random.randrange(256), int(np.random.randint(256))]
    large = torch.tensor([level, *draws[:2]], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 2, 2)
    small = torch.tensor([level, *draws[1:]], dtype=torch.uint8).view(1, 3, 1, 1)
    return large.clone(), small


def tokenize(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[int(word) for word in caption.split()] for caption in captions])


def batches(data: Levels, order: Order | None = None, **settings) -> list[TrainBatch]:
    settings = {"batch": 8, "steps": 6, "seed": 5, "workers": 0} | settings
    return list(training_loader(data, view, order or Order(len(data), seed=1), **settings))


def assert_same(one: list[TrainBatch], other: list[TrainBatch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.names == b.names
        assert a.first == b.first
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
        assert torch.equal(a.targets, b.targets)


def levels(batch: TrainBatch) -> list[int]:
    return batch.views[0][0, :, 0, 0, 0].tolist()


@pytest.mark.parametrize("captions", [False, True])
def test_workers_change_nothing(captions):
    data = Levels(30, broken=(3, 9, 20), captions=captions)
    settings = {"tokenize": tokenize} if captions else {}
    assert_same(batches(data, **settings), batches(data, workers=2, **settings))


def test_processes_share_the_global_batch_in_stretches():
    data = Levels(30, broken=(3, 9))
    whole = batches(data)
    shares = [batches(data, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        for rank, part in enumerate(batch.split(4)):
            assert_same([shares[rank][step]], [part])
    assert [share[0].first for share in shares] == [0, 4]


def test_a_resumed_run_gets_the_batches_it_would_have_got():
    data = Levels(30, broken=(3,))
    assert_same(batches(data)[4:], batches(data, start_step=4))
    assert batches(data, start_step=6) == []


def test_every_epoch_shows_each_sample_once_and_augments_it_anew():
    shown = [level for batch in batches(Levels(12), batch=4, steps=6) for level in levels(batch)]
    assert sorted(shown[:12]) == sorted(shown[12:]) == list(range(12))
    assert shown[:12] != shown[12:]
    draws = {
        tuple(draws)
        for batch in batches(Levels(12), batch=4, steps=6)
        for draws in batch.views[0][0, :, 1:, 0, 0].tolist()
    }
    assert len(draws) == 24
    assert not any(
        torch.equal(a.views[0], b.views[0])
        for a, b in zip(batches(Levels(12)), batches(Levels(12), seed=6), strict=True)
    )


def test_shapes_targets_and_names():
    batch = batches(Levels(30))[0]
    assert [tuple(stack.shape) for stack in batch.views] == [(2, 8, 3, 2, 2), (1, 8, 3, 1, 1)]
    assert batch.views[0].dtype == torch.uint8
    assert batch.targets.tolist() == [level % 2 for level in levels(batch)]
    assert batch.names == tuple(f"picture {level}" for level in levels(batch))


def test_one_caption_is_drawn_each_time():
    data = Levels(8, captions=True)
    drawn = Counter()
    for batch in batches(data, steps=30, tokenize=tokenize):
        assert batch.targets[:, 0].tolist() == levels(batch)
        drawn.update(batch.targets[:, 1].tolist())
    assert set(drawn) == {0, 1, 2}
    assert min(drawn.values()) > 50  # of 240, in thirds


def test_the_global_random_state_stays_as_it_was():
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    expected = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    batches(Levels(30))
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_the_unreadable_is_replaced_and_listed_once(workers):
    data = Levels(24, broken=(3, 9))
    loader = training_loader(data, view, Order(24, seed=1), batch=8, steps=9, seed=5, workers=workers)
    shown = [level for batch in loader for level in levels(batch)]
    assert len(shown) == 72
    assert not {3, 9} & set(shown)
    assert loader.skipped == {"picture 3": "torn in two", "picture 9": "torn in two"}
    clean = [level for batch in batches(Levels(24), steps=9) for level in levels(batch)]
    assert all(a == b for a, b in zip(shown, clean, strict=True) if b not in (3, 9))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_readable_is_a_users_mistake(workers):
    data = Levels(5, broken=tuple(range(5)))
    with pytest.raises(UserError, match=r"none of 101 samples.*picture \d: torn in two\.$"):
        batches(data, batch=2, workers=workers)
    with pytest.raises(UserError, match=r"none of 5 images.*torn in two"):
        list(evaluation_loader(data, PREPROCESS, batch=2, workers=workers))
    assert not left()


def test_mistakes_are_refused():
    with pytest.raises(UserError, match="a batch of 8 cannot be shared equally by 3"):
        batches(Levels(30), world=3)
    with pytest.raises(ValueError, match="order of 3 for 30"):
        batches(Levels(30), Order(3, seed=0))
    with pytest.raises(ValueError, match="captions need a tokenizer"):
        batches(Levels(30, captions=True))


def test_waiting_is_measured_where_the_consumer_waits(monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)

    def slow(image):
        clock.now += 0.25
        return view(image)

    loader = training_loader(Levels(30), slow, Order(30, seed=0), batch=4, steps=11, seed=0, workers=0)
    for _ in loader:
        clock.now += 3
    assert loader.wait_share == pytest.approx(10 * 1 / (10 * 1 + 10 * 3))  # the first wait is the start


PREPROCESS = Preprocess((4, 4), (4, 4), mean=(0, 0, 0), std=(1, 1, 1), crop=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_each_sample_once_in_order(workers):
    data = Levels(11, broken=(0, 1, 5))
    for world in (1, 2):
        seen = []
        for rank in range(world):
            loader = evaluation_loader(data, PREPROCESS, batch=2, rank=rank, world=world, workers=workers)
            for batch in loader:
                assert batch.labels.tolist() == [index % 2 for index in batch.indices.tolist()]
                assert batch.names == tuple(f"picture {index}" for index in batch.indices.tolist())
                assert torch.allclose(batch.pixels[:, 0, 0, 0] * 255, batch.indices.float())
                seen.extend(batch.indices.tolist())
            assert all(reason == "torn in two" for reason in loader.skipped.values())
        assert sorted(seen) == [2, 3, 4, 6, 7, 8, 9, 10]
        assert world == 2 or (seen == sorted(seen) and len(loader.skipped) == 3)


def test_evaluation_gives_all_captions():
    batch = next(iter(evaluation_loader(Levels(4, captions=True), PREPROCESS, batch=2, workers=0)))
    assert batch.captions == (("0 0", "0 1", "0 2"), ("1 0", "1 1", "1 2"))
    assert batch.labels is None


def left() -> list[BaseProcess]:
    """The workers that are still there; those that are just ending get a moment. A browser of other tests is none."""
    for worker in active_children():
        worker.join(PATIENCE)
    return active_children()


def test_no_worker_is_left_after_leaving_early_or_an_exception():
    def failing(image):
        raise KeyError("a mistake of ours")

    loader = training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=100, seed=0, workers=2)
    run = iter(loader)
    next(run)
    assert len(active_children()) == 2
    run.close()
    assert not left()
    with pytest.raises(KeyError, match="a mistake of ours") as kept:
        next(iter(training_loader(Levels(30), failing, Order(30, seed=0), batch=4, steps=9, seed=0, workers=2)))
    assert not left(), kept


def test_workers_survive_the_signals_that_stop_a_run_but_not_being_killed():
    loader = training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=100, seed=0, workers=2)
    run = iter(loader)
    next(run), next(run)  # one of each worker: both are up
    workers = active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    assert sum(1 for _ in run) == 98
    run = iter(loader)
    next(run)
    # torch notices wherever the process is at that moment: here, or in the loader.
    with pytest.raises((UserError, RuntimeError), match="worker"):  # noqa: PT012
        active_children()[0].kill()
        list(run)
    run.close()
    assert not left()


def test_full_shared_memory_is_said_and_not_waited_for(monkeypatch):
    """PyTorch moves batches in a thread that drops what finds no room; the run would wait for it without end."""

    def full(_tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    loader = training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=9, seed=0, workers=2)
    with pytest.raises(UserError, match=r"shared memory \(/dev/shm.* has no room .*--shm-size=8g.*data.workers"):
        next(iter(loader))
    assert not left()
    with pytest.raises(UserError, match="/dev/shm"):
        next(iter(evaluation_loader(Levels(30), PREPROCESS, batch=4, workers=1)))
    monkeypatch.setattr(
        torch.Tensor, "share_memory_", lambda _tensor: (_ for _ in ()).throw(RuntimeError("too many files"))
    )
    with pytest.raises(UserError, match=r"cannot hand over a batch of .* \(too many files\)"):
        next(iter(loader))
    without = training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=9, seed=0, workers=0)
    assert sum(1 for _ in without) == 9  # nothing is handed over


def test_shared_memory_of_64_kilobytes_ends_a_run_with_a_sentence():
    """The real thing, where this process may mount a file system."""
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    code = (
        "import torch; from torch.utils.data import DataLoader; from vitreg.data.batches.training import deliveries_of;"
        "from vitreg.data.batches.workers import Delivery\n"
        "class Jobs:\n"
        "    def __getitems__(self, jobs): return Delivery([torch.zeros(1, 4, 3, 64, 64)], None, [], [], [], [])\n"
        "try: next(deliveries_of(Jobs(), iter([[0], [1]]), 1))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [*mount, sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout.startswith("UserError shared memory (/dev/shm of 0.0625 MiB) has no room for a batch of 0.2 MiB")
    assert "Traceback" not in done.stderr


def test_waiting_for_a_worker_that_hangs_has_a_limit(monkeypatch):
    monkeypatch.setattr(training, "_PATIENCE", 0.5)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # what it waits for its workers to end

    def hanging(_image):
        time.sleep(PATIENCE)

    loader = training_loader(Levels(30), hanging, Order(30, seed=0), batch=4, steps=9, seed=0, workers=1)
    with pytest.raises(UserError, match=r"no batch came from the data workers in .* data.workers"):
        next(iter(loader))
    for worker in active_children():  # it was asked once; the end of a run asks again
        worker.terminate()
    assert not left()


def loop(pipe) -> None:
    """Train without end, as the head of a group of processes."""
    os.setsid()
    for _ in training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=10**9, seed=0, workers=2):
        if not pipe.closed:
            pipe.send([worker.pid for worker in active_children()])
            pipe.close()


def test_ctrl_c_leaves_no_process(capfd):
    ours, theirs = multiprocessing.Pipe()
    run = multiprocessing.get_context("fork").Process(target=loop, args=(theirs,))
    run.start()
    assert ours.poll(PATIENCE)
    workers = [psutil.Process(pid) for pid in ours.recv()]
    assert len(workers) == 2
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to all of them
    run.join(PATIENCE)
    assert run.exitcode == 1
    assert "KeyboardInterrupt" in capfd.readouterr().err
    assert not psutil.wait_procs(workers, timeout=PATIENCE)[1]


def test_workers_that_are_only_being_started_survive_ctrl_c(monkeypatch):
    def slow(number):
        signal.raise_signal(signal.SIGINT)  # before the worker has become deaf to it
        start_worker(number)

    monkeypatch.setattr(training, "start_worker", slow)
    assert (
        sum(1 for _ in training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=9, seed=0, workers=2)) == 9
    )


def test_ctrl_c_while_workers_are_started_counts_when_they_are(monkeypatch):
    """Where it was raised in one of the hooks around fork, it went by and the run went on."""
    start, seen = DataLoader.__iter__, []

    def interrupted(loader):
        signal.raise_signal(signal.SIGINT)
        iterator = start(loader)
        seen.append(len(active_children()))
        return iterator

    monkeypatch.setattr(DataLoader, "__iter__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(iter(training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=9, seed=0, workers=2)))
    assert seen == [2]
    assert not left()


def test_an_interruption_in_the_midst_of_taking_a_batch_prints_nothing_of_the_worker(monkeypatch, capfd):
    def torn(identity):
        address, _ = identity
        Client(address, authkey=multiprocessing.current_process().authkey).close()
        time.sleep(0.5)  # for the worker to notice
        raise KeyboardInterrupt

    run = iter(training_loader(Levels(30), view, Order(30, seed=0), batch=4, steps=9, seed=0, workers=1))
    next(run)
    monkeypatch.setattr(resource_sharer._ResourceSharer, "get_connection", staticmethod(torn))
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert not left()
    assert capfd.readouterr().err == ""
