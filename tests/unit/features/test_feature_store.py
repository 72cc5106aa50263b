"""Features on disk are what was written, whatever shards they lie in; what is damaged or unfinished is not taken."""

import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from tests.patience import PATIENCE

from vitreg.errors import UserError
from vitreg.features import shards as feature_shards
from vitreg.features.shards import FieldRecord, Shards, StoreRecord, cut, read_record, write_record
from vitreg.features.store import find_damaged, open_store
from vitreg.features.table import write_table
from vitreg.records import Skipped
from vitreg.writing.claims import Claims

IMAGES, PER_SHARD = 23, 5
UNREADABLE = {3, 10, 11, 12, 13, 14, 22}  # all of the third shard, and the last image
FIELDS = {
    "cls/3": FieldRecord(shape=[4], dtype="float32"),
    "patches/3": FieldRecord(shape=[6, 4], dtype="float16"),
    "mirrored/mean/3": FieldRecord(shape=[4], dtype="float16"),
}
ROWS = [i for i in range(IMAGES) if i not in UNREADABLE]


def values(name):
    generator = torch.Generator().manual_seed(len(name))
    return torch.randn(IMAGES, *FIELDS[name].shape, generator=generator).to(FIELDS[name].torch_dtype)


def begin(folder):
    folder.mkdir(exist_ok=True)
    record = StoreRecord(
        key="0" * 16,
        images=IMAGES,
        per_shard=PER_SHARD,
        batch=PER_SHARD,
        depth=4,
        grid=(2, 3),
        fields=FIELDS,
        made_from={},
    )
    write_record(folder, record)
    return Shards(folder, record)


def write(shards, number):
    places = shards.range(number)
    rows = torch.tensor([i for i in places if i not in UNREADABLE], dtype=torch.int64)
    skipped = [Skipped(name=f"{i}.jpg", reason="torn") for i in places if i in UNREADABLE]
    shards.write(number, rows, {n: values(n)[rows] for n in FIELDS}, [f"{i}.jpg" for i in rows.tolist()], skipped)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shards = begin(tmp_path_factory.mktemp("features") / "store")
    for number in reversed(range(len(shards))):
        write(shards, number)
    return shards.folder


@pytest.fixture
def own(folder, tmp_path):
    """A copy to damage."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = read_record(tmp_path)
    assert record is not None
    return Shards(tmp_path, record)


@pytest.mark.parametrize("name", FIELDS)
def test_slices_and_numbers_give_what_was_written(folder, name):
    store = open_store(folder, verify=True)
    truth, found = values(name)[ROWS].float(), store[name]
    assert found.shape == truth.shape
    assert len(found) == len(ROWS)
    assert store.rows.dtype == np.int64
    assert store.rows.tolist() == ROWS
    for index in (
        slice(None),
        slice(2, 9),
        slice(4, 4),
        slice(9, 2),
        slice(-3, None),
        slice(1, 15, 4),
        slice(None, None, -1),
    ):
        expected = truth.flip(0) if index.step == -1 else truth[index]
        assert torch.equal(found[index], expected), index
    assert torch.equal(found[7], truth[7])
    assert torch.equal(found[-1], truth[-1])
    assert found[2:4].dtype == torch.float32
    assert torch.equal(torch.cat(list(found.chunks(3))), truth)


@settings(max_examples=60)
@given(index=hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(-len(ROWS), len(ROWS) - 1)))
def test_any_images_in_any_order_with_repeats(folder, index):
    store = open_store(folder)
    truth = values("patches/3")[ROWS].float()
    assert torch.equal(store["patches/3"][index], truth[index])
    assert torch.equal(store["patches/3"][torch.from_numpy(index)], truth[index])


def test_yes_and_no_choose_images(folder):
    chosen = np.arange(len(ROWS)) % 3 == 1
    assert torch.equal(open_store(folder)["cls/3"][chosen], values("cls/3")[ROWS][chosen])


@pytest.mark.parametrize("index", [[16], [0, -17], np.zeros((2, 2), int), np.ones(3, bool)])
def test_images_that_are_not_there(folder, index):
    with pytest.raises(IndexError):
        open_store(folder)["cls/3"][index]


def test_names_of_fields_and_images(folder):
    store = open_store(folder)
    assert list(store) == list(FIELDS)
    assert "cls/-1" in store
    assert "cls/2" not in store
    assert torch.equal(store["mirrored/mean/-1"][:], store["mirrored/mean/3"][:])
    assert store.names == [f"{i}.jpg" for i in ROWS]
    assert [skipped.name for skipped in store.skipped] == [f"{i}.jpg" for i in sorted(UNREADABLE)]
    with pytest.raises(UserError, match=r"'clss/3'.*cls/3"):
        store["clss/3"]


def test_the_documented_way_of_reading_without_this_package(folder):
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            found.append(shard.get_tensor("cls/3"))
    assert torch.equal(torch.cat(found), values("cls/3")[ROWS])


def test_a_table_holds_the_same(folder, tmp_path):
    import pyarrow.parquet as pq

    write_table(open_store(folder), tmp_path / "features.parquet")
    table = pq.read_table(tmp_path / "features.parquet")
    assert table.column_names == ["row", "name", "cls/3", "mirrored/mean/3"]
    assert table["row"].to_pylist() == ROWS
    assert table["name"].to_pylist() == [f"{i}.jpg" for i in ROWS]
    for name in ("cls/3", "mirrored/mean/3"):
        assert torch.equal(
            torch.tensor(np.array(table[name].to_pylist()), dtype=FIELDS[name].torch_dtype), values(name)[ROWS]
        )


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(data)


def truncated(path):
    os.truncate(path, path.stat().st_size - 1)


def emptied(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [flipped, truncated, emptied, Path.unlink])
def test_a_damaged_shard_is_found(own, harm):
    assert find_damaged(own, range(len(own))) == []
    harm(own.path(1))
    assert find_damaged(own, range(len(own))) == [1]
    with pytest.raises(UserError, match=r"damaged|4 of 5 shards"):
        open_store(own.folder, verify=True)
    own.discard(1)
    assert own.missing() == [1]


@pytest.mark.parametrize("text", ["", "{", '{"start": 5, "stop": 10}', None])
def test_a_damaged_json_counts_as_damage(own, text):
    wrong = json.loads(own.note(1).read_text()) | {"start": 6, "stop": 11}
    own.note(1).write_text(json.dumps(wrong) if text is None else text)
    assert own.missing() == [1]
    assert find_damaged(own, range(len(own))) == [1]


def test_a_shard_without_its_json_is_unfinished(own):
    own.note(2).unlink()
    assert own.missing() == [2]
    with pytest.raises(UserError, match="has 4 of 5 shards; the same extraction, run again, finishes it"):
        open_store(own.folder)


def test_a_folder_without_features(tmp_path):
    with pytest.raises(UserError, match="holds no features"):
        open_store(tmp_path)


def test_a_full_disk_leaves_nothing_half_written(own, monkeypatch):
    def full(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {file.name: file.read_bytes() for file in own.folder.iterdir()}
    own.discard(0)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*000000\.safetensors: No space left on device\."):
        write(own, 0)
    assert {file.name: file.read_bytes() for file in own.folder.iterdir()} == {
        name: data for name, data in before.items() if name != "000000.json"
    }


def test_what_a_killed_process_left_is_swept(own):
    left = own.folder / ".000001.safetensors.4711.part"
    left.write_bytes(b"half")
    own.discard(1)
    assert not left.exists()


@pytest.mark.parametrize(
    ("size", "batch"), [(768 * 4, 64), (196 * 768 * 4, 256), (2 << 20, 46), (1 << 30, 8), (4, 5000)]
)
def test_shards_are_whole_batches_of_bounded_size(size, batch):
    per_shard, found = cut({"patches/0": FieldRecord(shape=[size // 4], dtype="float32")}, batch)
    assert found <= batch
    assert per_shard % found == 0
    assert per_shard * size <= max(feature_shards.SHARD_BYTES, min(batch * size, feature_shards.MOST_BYTES), size)


def claiming(folder, ready, go_on):
    with Claims(folder) as claims:
        assert claims.take(3)
        ready.set()
        go_on.wait()


@pytest.mark.parametrize("end", ["let go", "killed"])
def test_a_claim_ends_with_its_process(tmp_path, end):
    context = multiprocessing.get_context("fork")
    ready, go_on = context.Event(), context.Event()
    other = context.Process(target=claiming, args=(tmp_path, ready, go_on))
    other.start()
    assert ready.wait(PATIENCE)
    with Claims(tmp_path) as claims:
        assert not claims.take(3)
        assert claims.take(2)
        assert other.pid is not None
        go_on.set() if end == "let go" else os.kill(other.pid, signal.SIGKILL)
        other.join(PATIENCE)
        assert claims.take(3)


HEADERS = {
    "too long": (2**62).to_bytes(8, "little"),
    "longer than the file": (10**6).to_bytes(8, "little"),
    "nested": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "a list": (2).to_bytes(8, "little") + b"[]",
    "no offsets": (25).to_bytes(8, "little") + b'{"rows":{"data_offsets":[]}}'[:25].ljust(25),
    "no table": (10).to_bytes(8, "little") + b'{"rows":3}',
}


@pytest.mark.parametrize("head", HEADERS.values(), ids=HEADERS)
def test_a_shard_with_a_header_of_somebody_else_is_one_sentence(own, head):
    own.path(1).write_bytes(head)
    with pytest.raises(UserError, match="extract the features again") as caught:
        own.map(1)
    assert "\n" not in str(caught.value)
