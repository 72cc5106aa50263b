"""An extraction that was damaged, killed or shared by processes ends as the undisturbed one."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.patience import PATIENCE, until
from tests.unit.features.pictures import EVERYTHING, IMAGES, PER_SHARD, Pictures, bench, shards_of

from vitreg.features import shards as feature_shards
from vitreg.features.extract import extract
from vitreg.features.fields import FieldReader
from vitreg.machine.runtime import Processes

pytestmark = pytest.mark.usefixtures("one_thread", "small_shards")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_shards, "MOST_IMAGES", PER_SHARD)
        folder = tmp_path_factory.mktemp("undisturbed")
        extract(bench(folder), Pictures(torn=(5, 6)), EVERYTHING)
    return shards_of(folder)


@pytest.mark.parametrize("harm", ["flipped", "truncated"])
def test_a_damaged_shard_is_made_again_and_said(tmp_path, undisturbed, harm):
    data = Pictures(torn=(5, 6))
    store = extract(bench(tmp_path), data, EVERYTHING)
    file = store.folder / "000002.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content if harm == "flipped" else content[:-1])
    data.read_places.clear()
    again = extract(bench(tmp_path), data, EVERYTHING)
    assert data.read_places[16:] == [8, 9, 10, 11]
    assert again.notes == (f"{file} was damaged; its features were extracted anew.",)
    assert shards_of(tmp_path) == undisturbed


def test_a_damaged_description_costs_no_finished_shard(tmp_path, undisturbed):
    data = Pictures(torn=(5, 6))
    store = extract(bench(tmp_path), data, EVERYTHING)
    (store.folder / "store.json").write_text("{")
    data.read_places.clear()
    extract(bench(tmp_path), data, EVERYTHING)
    assert len(data.read_places) == 16
    assert shards_of(tmp_path) == undisturbed


def test_an_interruption_keeps_what_is_finished(tmp_path, undisturbed):
    class Stopped(Pictures):
        def read(self, index):
            if index == 14 and len(self.read_places) > 16:
                raise KeyboardInterrupt
            return super().read(index)

    with pytest.raises(KeyboardInterrupt):
        extract(bench(tmp_path), Stopped(torn=(5, 6)), EVERYTHING)
    data = Pictures(torn=(5, 6))
    extract(bench(tmp_path), data, EVERYTHING)
    assert data.read_places[16:] == list(range(12, IMAGES))
    assert shards_of(tmp_path) == undisturbed


def child(folder, moment=None, count=0, torn=(5, 6), rank=0, world=1, slow=0.0, workers=0):
    """Extract in a process of its own that kills itself at the count-th event of a kind. Returns it, started."""

    def run():
        torch.set_num_threads(1)
        seen = 0

        def at(event):
            nonlocal seen
            seen += event == moment
            if seen > count:
                os.kill(os.getpid(), signal.SIGKILL)

        replace_file, write_bytes, read = os.replace, Path.write_bytes, FieldReader.__call__

        def replacing(a, b):
            at("before a file is in place")
            replace_file(a, b)
            at("after a file is in place")

        def writing(path, content):
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                at("half of a file")
            return write_bytes(path, content)

        def reading(reader, *images):
            at("batch")
            time.sleep(slow)
            return read(reader, *images)

        os.replace, Path.write_bytes, FieldReader.__call__ = replacing, writing, reading
        settings = {"group": Alone(rank, world), "workers": workers}
        extract(bench(folder, **settings), Pictures(torn=torn), EVERYTHING)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


class Alone(Processes):
    """One of several processes that cannot talk."""

    def gather(self, value):
        return [value]


MOMENTS = [
    *(("batch", n) for n in (0, 5, 10)),
    *(("half of a file", n) for n in (0, 3)),
    *(("before a file is in place", n) for n in (0, 1, 6)),
    *(("after a file is in place", n) for n in (0, 5, 12)),
]
OTHERS = [
    *(("batch", n) for n in (1, 2, 3, 4, 6, 7, 8, 9)),
    *(("half of a file", n) for n in (1, 2, 4, 5)),
    *(("before a file is in place", n) for n in (2, 3, 4, 5, 7, 8, 9, 10, 11, 12)),
    *(("after a file is in place", n) for n in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)),
]


@pytest.mark.parametrize(
    ("moment", "count"), [*MOMENTS, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_killed_at_any_moment_it_goes_on_bit_for_bit(tmp_path, undisturbed, moment, count):
    killed = child(tmp_path, moment, count)
    killed.join(PATIENCE)
    assert killed.exitcode == -signal.SIGKILL
    finished = {name: data for name, data in shards_of(tmp_path).items() if name.endswith(".json")}
    data = Pictures(torn=(5, 6))
    store = extract(bench(tmp_path), data, EVERYTHING)
    assert shards_of(tmp_path) == undisturbed
    assert not list(store.folder.glob("*.part"))
    expected = [i for i in range(IMAGES) if f"{i // PER_SHARD:06d}.json" not in finished]
    assert data.read_places[16:] == expected


@pytest.mark.parametrize("ranks", [(0, 0, 0), (0, 1, 2)])
def test_processes_share_one_extraction(tmp_path, undisturbed, ranks):
    world = len(set(ranks))
    processes = [child(tmp_path, slow=0.02, rank=rank, world=world) for rank in ranks]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert shards_of(tmp_path) == undisturbed


def test_the_work_is_done_once(tmp_path, undisturbed):
    other = child(tmp_path, slow=0.1)
    until(lambda: list(tmp_path.glob("*/claims")), other)
    data = Pictures(torn=(5, 6))
    extract(bench(tmp_path), data, EVERYTHING)
    other.join(PATIENCE)
    assert other.exitcode == 0
    assert len(data.read_places[16:]) < IMAGES
    assert shards_of(tmp_path) == undisturbed


def test_the_shard_of_a_process_that_dies_is_taken_over(tmp_path, undisturbed):
    dying = child(tmp_path, "batch", 3, slow=0.3)
    until(lambda: list(tmp_path.glob("*/000000.json")), dying)  # it is on the second shard
    extract(bench(tmp_path), Pictures(torn=(5, 6)), EVERYTHING)
    dying.join(PATIENCE)
    assert dying.exitcode == -signal.SIGKILL
    assert shards_of(tmp_path) == undisturbed


def test_worker_processes_give_the_same(tmp_path, undisturbed):
    extract(bench(tmp_path, workers=2), Pictures(torn=(5, 6)), EVERYTHING)
    assert shards_of(tmp_path) == undisturbed


def test_a_resumed_extraction_keeps_the_batch_it_was_begun_with(tmp_path, monkeypatch):
    seen = []
    read = FieldReader.__call__
    monkeypatch.setattr(
        FieldReader, "__call__", lambda reader, *images: seen.append(len(images[0])) or read(reader, *images)
    )
    monkeypatch.setattr("vitreg.passes.view.images_at_once", lambda *_: 4)
    killed = child(tmp_path, "batch", 2)
    killed.join(PATIENCE)
    extract(bench(tmp_path, batch_size=None), Pictures(torn=(5, 6)), EVERYTHING)
    assert set(seen) == {2, 1}
