"""Archives, shards and streams are read in place; what is damaged gives what it holds and a reason."""

from __future__ import annotations

import gzip
import itertools
import os
import sys
import tarfile
from pathlib import Path

import pytest
from tests.unit.data.sources.small_files import levels, make_tar, make_zip, names, picture, put

from vitreg.data import ImageSource, Unreadable
from vitreg.data.sources.listing import expand_braces
from vitreg.errors import UserError

MEMBERS = {"d/1.png": picture(1), ".hidden.png": b"", "__MACOSX/1.png": b"", "d/2.png": picture(2), "read.me": b"x"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_archives_are_read_in_place(tmp_path, name):
    path = tmp_path / name
    if name == "a.zip":
        make_zip(path, MEMBERS)
    else:
        make_tar(path, MEMBERS, {"a.tar": "w", "a.tgz": "w:gz"}.get(name, "w:" + name[6:]))
    source = ImageSource([path, put(tmp_path / "3.png", 3)])
    assert len(source) == 3
    assert levels(source) == [1, 2, 3]
    assert names(source, tmp_path) == [f"{name}/d/1.png", f"{name}/d/2.png", "3.png"]
    assert [source[i].open().getpixel((0, 0))[0] for i in (2, 1, 0)] == [3, 2, 1]
    assert sorted(os.listdir(tmp_path)) == sorted([name, "3.png"])  # nothing was extracted


def test_a_shard_gives_one_image_a_sample(tmp_path):
    members = {}
    for i in range(3):
        members[f"{i:04d}.cls"] = b"3"
        members[f"{i:04d}.seg.png"] = picture(200 + i)
        members[f"{i:04d}.png"] = picture(100 + i)
        members[f"{i:04d}.jpg"] = picture(i, "JPEG")
    for path in (make_tar(tmp_path / "s.tar", members), make_tar(tmp_path / "s.tgz", members, "w:gz")):
        assert names(ImageSource([path]), path) == ["0000.jpg", "0001.jpg", "0002.jpg"]
        assert levels(ImageSource([path])) == [0, 1, 2]


def test_photographs_whose_names_share_a_key_are_all_images(tmp_path):
    members = {f"2020.{i:03d}.png": picture(i) for i in range(100)}
    for path in (make_tar(tmp_path / "s.tar", members), make_tar(tmp_path / "s.tgz", members, "w:gz")):
        assert levels(ImageSource([path])) == list(range(100))


def test_real_shards(test_data):
    source = ImageSource([f"{test_data}/tiny-imagenet-30/val-{{000..000}}.tar"])
    with tarfile.open(test_data / "tiny-imagenet-30" / "val-000.tar") as tar:
        expected = [name for name in tar.getnames() if name.endswith(".jpg")]
    assert [item.name.rpartition("/")[2] for item in source] == expected
    assert source[0].open().size == (64, 64)


def test_damaged_archives_give_what_they_hold_and_a_reason(tmp_path):
    members = {f"{i}.png": os.urandom(3000) + picture(i) for i in range(6)}
    for name, data in members.items():
        members[name] = picture(int(name[0])) + data  # large and hard to compress
    tar = make_tar(tmp_path / "a.tar", members)
    tgz = make_tar(tmp_path / "a.tgz", members, "w:gz")
    archive = make_zip(tmp_path / "a.zip", members)
    for path in (tar, tgz):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    archive.write_bytes(archive.read_bytes()[:200] + b"\xff" * 50 + archive.read_bytes()[250:])
    (tmp_path / "noise.zip").write_bytes(os.urandom(500))
    (tmp_path / "noise.tar").write_bytes(os.urandom(500))
    for path in (tar, tgz, archive, tmp_path / "noise.zip", tmp_path / "noise.tar"):
        source = ImageSource([path, put(tmp_path / "last.png", 99)])
        good, reasons = [], []
        for item in source:
            try:
                good.append((item.index, item.open().getpixel((0, 0))[0]))
            except Unreadable as error:
                reasons.append(error.reason)
        assert reasons, path
        assert all(reasons), path
        assert good[-1] == (len(source) - 1, 99), path
        assert [index for index, level in good[:-1] if index != level] == [], path


def test_an_archive_member_of_absurd_size_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.data.sources.members.MAX_MEMBER_BYTES", 1000)
    monkeypatch.setattr("vitreg.data.sources.archives.MAX_STREAMED_BYTES", 1000)
    members = {"big.png": bytes(5000), "small.png": picture(1)}
    for path in (
        make_tar(tmp_path / "a.tar", members),
        make_tar(tmp_path / "a.tgz", members, "w:gz"),
        make_zip(tmp_path / "a.zip", members),
    ):
        source = ImageSource([path])
        with pytest.raises(Unreadable, match="more than the limit"):
            source[0].open()
        assert source[1].open().size == (20, 20)


def test_braces_expand_as_in_a_shell():
    assert expand_braces("s/{000..002}.tar") == ["s/000.tar", "s/001.tar", "s/002.tar"]
    assert expand_braces("{9..11}") == ["9", "10", "11"]
    assert expand_braces("{2..0}") == ["2", "1", "0"]
    assert expand_braces("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    assert expand_braces("pipe:awk '{print}'") == ["pipe:awk '{print}'"]
    with pytest.raises(UserError, match="more than 1000000"):
        expand_braces("{0..9999999}.tar")


def test_brace_patterns_of_local_shards(tmp_path):
    for i in range(3):
        make_tar(tmp_path / f"{i:03d}.tar", {f"{j}.png": picture(10 * i + j) for j in range(2)})
    assert levels(ImageSource([f"{tmp_path}/{{000..002}}.tar"])) == [0, 1, 10, 11, 20, 21]
    with pytest.raises(UserError, match=r"003\.tar'\. Did you mean"):
        ImageSource([f"{tmp_path}/{{000..003}}.tar"])


def test_shards_behind_a_pipe_are_streamed(tmp_path):
    pytest.importorskip("webdataset")
    for i in range(2):
        make_tar(tmp_path / f"{i}.tar", {f"{j}.png": picture(10 * i + j) for j in range(3)})
    source = ImageSource([f"pipe:cat {tmp_path}/{{0..1}}.tar", put(tmp_path / "last.png", 99)])
    assert source.length is None
    with pytest.raises(TypeError):
        len(source)
    with pytest.raises(TypeError):
        source[0]
    assert levels(source) == [0, 1, 2, 10, 11, 12, 99]
    assert [item.index for item in source] == list(range(7))
    by_rank = [[(item.index, item.open().getpixel((0, 0))[0]) for item in source.walk(rank, 3)] for rank in range(3)]
    assert sorted(itertools.chain(*by_rank)) == list(enumerate([0, 1, 2, 10, 11, 12, 99]))


def test_a_stream_that_breaks_gives_a_reason(tmp_path):
    pytest.importorskip("webdataset")
    tar = make_tar(tmp_path / "a.tar", {f"{j}.png": picture(j) + bytes(20000) for j in range(4)})
    for command, good in ((f"head -c 50000 {tar}", 2), ("exit 3", 0), ("true", 0), (f"gzip -c {tar}", 4)):
        read, reasons = 0, []
        for item in ImageSource([f"pipe:{command}"]):
            try:
                item.open()
                read += 1
            except Unreadable as error:
                reasons.append(error.reason)
        assert read == good, command
        assert bool(reasons) == (good < 4), command


def test_leaving_a_stream_early_does_not_wait_for_its_command(tmp_path):
    pytest.importorskip("webdataset")
    tar = make_tar(tmp_path / "a.tar", {f"{j}.png": picture(j) for j in range(3)})
    walk = ImageSource([f"pipe:cat {tar} {tar}; exec sleep 600"]).walk()
    assert next(walk).index == 0
    walk.close()


def test_without_webdataset_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"pip install 'vitreg\[scale\]'"):
        ImageSource(["https://example.org/{000..009}.tar"])
    with pytest.raises(UserError, match=r"'https://example\.org/0\.tar' needs"):
        ImageSource([Path("https://example.org/0.tar")])


def test_a_compressed_archive_cut_within_its_header_is_a_reason(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(b"no tar" * 1000)[:30])
    (item,) = ImageSource([path])
    with pytest.raises(Unreadable, match="damaged archive"):
        item.open()
