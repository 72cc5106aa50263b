"""Batches in order, on one rank or several, with what is unreadable listed and no thread left behind."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from tests.patience import PATIENCE

from vitreg.data import IMAGENET, ImageSource, stream

SMALL = IMAGENET.with_size((32, 48))


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vitreg-decode")]


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures, of which 4 and 11 cannot be read and 7 is one pixel."""
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "04.png").write_bytes(b"")
    (tmp_path / "11.png").write_bytes((tmp_path / "10.png").read_bytes()[:2000])
    Image.new("RGB", (1, 1)).save(tmp_path / "07.png")
    return tmp_path


READABLE = [i for i in range(20) if i not in (4, 7, 11)]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 6, 64])
def test_batches_are_what_preprocessing_each_image_gives(folder, workers, batch_size):
    source = ImageSource([folder])
    batches = list(stream(source, SMALL, batch_size, workers=workers, min_side=16))
    assert torch.cat([batch.indices for batch in batches]).tolist() == READABLE
    assert [len(batch.names) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch in batches:
        assert (batch.indices.dtype, batch.pixels.dtype) == (torch.int64, torch.float32)
        assert batch.pixels.is_contiguous()
        for index, name, pixels in zip(batch.indices.tolist(), batch.names, batch.pixels, strict=True):
            assert name == source[index].name
            assert torch.equal(pixels, SMALL(source[index].open()))


def test_what_cannot_be_read_is_listed_with_the_reason(folder):
    batches = stream(ImageSource([folder]), SMALL, 5, min_side=16)
    for _ in range(2):  # a second pass starts anew
        assert sum(len(batch.names) for batch in batches) == 17
        assert [(os.path.basename(skipped.name), skipped.reason) for skipped in batches.skipped] == [
            ("04.png", "empty file"),
            ("07.png", "1x1 px is smaller than one patch (16 px)"),
            ("11.png", "truncated file"),
        ]
        assert batches.skipped_indices == [4, 7, 11]


@pytest.mark.parametrize("world", [2, 3, 7, 30])
def test_ranks_together_see_what_one_process_sees(folder, world):
    with tarfile.open(folder / "more.tgz", "w:gz") as tar:
        for i in range(5):
            tar.add(folder / f"{i:02d}.png", f"{i}.png")
    source = ImageSource([folder / "more.tgz", folder])

    def read(rank: int, world: int) -> tuple[dict[int, torch.Tensor], list[tuple[int, str, str]]]:
        batches = stream(source, SMALL, 4, rank=rank, world=world, workers=2)
        images = {int(i): image for b in batches for i, image in zip(b.indices, b.pixels, strict=True)}
        skipped = zip(batches.skipped_indices, batches.skipped, strict=True)
        return images, [(index, entry.name, entry.reason) for index, entry in skipped]

    whole, skipped = read(0, 1)
    parts = [read(rank, world) for rank in range(world)]
    assert all(index % world == rank for rank, (images, _) in enumerate(parts) for index in images)
    merged = {index: image for images, _ in parts for index, image in images.items()}
    assert len(merged) == sum(len(images) for images, _ in parts)
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[index], whole[index]) for index in whole)
    assert sorted(entry for _, entries in parts for entry in entries) == skipped


def test_limit_counts_positions_in_the_source(folder):
    got = [stream(ImageSource([folder]), SMALL, 4, rank=rank, world=2, limit=9) for rank in (0, 1)]
    indices = sorted(int(i) for batches in got for batch in batches for i in batch.indices)
    assert indices == [0, 1, 2, 3, 5, 6, 7, 8]


def test_only_unreadable_images_give_no_batch_and_a_list(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"text, and more text")
    batches = stream(ImageSource([tmp_path]), SMALL, 4)
    assert list(batches) == []
    assert [skipped.reason for skipped in batches.skipped] == ["empty file", "not an image"]


def test_order_holds_when_images_take_unequal_time(folder, monkeypatch):
    pixels = type(SMALL).pixels

    def slow(self, image):
        time.sleep(0.02 * (image.height % 4 == 0))
        return pixels(self, image)

    monkeypatch.setattr(type(SMALL), "pixels", slow)
    batches = list(stream(ImageSource([folder]), SMALL, 3, workers=4, min_side=16))
    assert torch.cat([batch.indices for batch in batches]).tolist() == READABLE


def test_no_thread_stays_after_the_end_a_break_or_close(folder):
    batches = stream(ImageSource([folder]), SMALL, 2, workers=3)
    list(batches)
    assert not decoding_threads()
    for _ in batches:
        assert decoding_threads()
        break
    assert not decoding_threads()
    iterator = iter(batches)
    next(iterator)
    iterator.close()
    assert not decoding_threads()


def test_an_interruption_stops_the_threads(folder, monkeypatch):
    """Ctrl-C arrives while the caller waits for a batch, of which a picture is just being decoded."""

    sent = threading.Event()

    def interrupting(self, image):
        if not sent.is_set():
            sent.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.05)  # the caller is gone before the picture is done
        return np.zeros((32, 48, 3), np.uint8)

    monkeypatch.setattr(type(SMALL), "pixels", interrupting)
    with pytest.raises(KeyboardInterrupt):
        list(stream(ImageSource([folder]), SMALL, 8, workers=1))
    assert not decoding_threads()


def test_a_mistake_of_ours_is_not_taken_for_an_unreadable_image(folder, monkeypatch):
    def broken(self, image):
        raise ZeroDivisionError

    monkeypatch.setattr(type(SMALL), "pixels", broken)
    with pytest.raises(ZeroDivisionError):
        list(stream(ImageSource([folder]), SMALL, 4))
    assert not decoding_threads()


def test_no_more_is_decoded_than_a_few_batches_ahead(folder, monkeypatch):
    count = 0
    pixels = type(SMALL).pixels

    def counted(self, image):
        nonlocal count
        count += 1
        return pixels(self, image)

    monkeypatch.setattr(type(SMALL), "pixels", counted)
    iterator = iter(stream(ImageSource([folder]), SMALL, 2, workers=1))
    next(iterator)
    time.sleep(0.2)
    assert count <= 2 + 2 * 2
    iterator.close()


@pytest.mark.parametrize("archive", ["files", "tar", "tgz"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, archive):
    rng = np.random.default_rng(0)

    def png() -> bytes:
        """12 kB, no two alike: gzip would make 10 MB of equal ones out of the first 10 kB it reads."""
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    def peak(count: int) -> int:
        path = tmp_path / f"{count}"
        if archive == "files":
            path.mkdir()
            for i in range(count):
                (path / f"{i}.png").write_bytes(png())
        else:
            path = path.with_suffix("." + archive)
            with tarfile.open(path, "w" if archive == "tar" else "w:gz") as tar:
                for i in range(count):
                    data, info = png(), tarfile.TarInfo(f"{i}.png")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        source = ImageSource([path])
        tracemalloc.start()
        try:
            assert sum(len(batch.names) for batch in stream(source, SMALL, 4, workers=2)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)
    # 280 more images are 3.4 MB of files and 1.3 MB of pixels.
    assert peak(300) - peak(21) < 400_000


def test_nonsense_settings_are_refused(folder):
    for settings in ({"batch_size": 0}, {"workers": 0}, {"rank": 2, "world": 2}, {"rank": -1}):
        with pytest.raises(ValueError):
            stream(ImageSource([folder]), SMALL, **({"batch_size": 4} | settings))


def test_large_pictures_pass_one_at_a_time(folder, monkeypatch):
    """Four threads with a picture of 700 MB each would be too much."""
    inside, most, counting, two = 0, 0, threading.Lock(), threading.Event()

    def counted(self, image):
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
            if inside > 1:
                two.set()
        assert two.wait(PATIENCE)  # small pictures meet in here, or this is a hang
        time.sleep(0.01)
        with counting:
            inside -= 1
        return np.zeros((32, 48, 3), np.uint8)

    monkeypatch.setattr(type(SMALL), "pixels", counted)
    list(stream(ImageSource([folder]), SMALL, 4, workers=4))
    assert most > 1
    monkeypatch.setattr("vitreg.data.sources.decode._LARGE_PIXELS", 1000)
    most = 0
    list(stream(ImageSource([folder]), SMALL, 4, workers=4, min_side=16))
    assert most == 1
