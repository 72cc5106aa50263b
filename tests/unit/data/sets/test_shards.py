"""Shards as training sets: every member found where tarfile finds it, cut shards used as far as they go, URLs by a cache."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from vitreg.data.sets.datasets import concerns, open_training_set
from vitreg.data.sets.settings import DataConfig
from vitreg.data.sources import remote
from vitreg.data.sources.decode import Unreadable
from vitreg.data.sources.tar import CutShort, walk_tar
from vitreg.errors import UserError


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def make_tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT, mtime: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return path


def labelled(path: Path, labels: list[object], first: int = 0) -> Path:
    members = {}
    for number, text in enumerate(labels, first):
        members[f"{number:04}.png"] = picture(number)
        if text is not None:
            members[f"{number:04}.cls"] = str(text).encode()
    return make_tar(path, members)


def opened(root: Path | str, captions: bool = False, split: str = "train", **settings):
    return open_training_set(DataConfig(root=str(root), **settings), split, captions=captions)


def levels(data) -> list[int]:
    return [data.read(i).image.getpixel((0, 0))[0] for i in range(len(data))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_finds_them(tmp_path, form):
    members = {
        "a.txt": b"1",
        "folder/empty.txt": b"",
        "block.txt": b"x" * 512,
        "a" * 90 + "/" + "b" * 90 + ".txt": b"prefix of ustar",
        "ü.txt": b"2",
    }
    if form != tarfile.USTAR_FORMAT:
        members["x" * 300 + ".txt"] = b"long name"
    path = make_tar(tmp_path / "x.tar", members, form, mtime=1.5)  # a fractional time makes a pax header for each
    with tarfile.open(path, "a") as tar:
        tar.addfile(_typed("folder", tarfile.DIRTYPE))
        tar.addfile(_typed("link.txt", tarfile.SYMTYPE))
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size, False) for info in tar if info.isreg()]
    with open(path, "rb") as file:
        assert list(walk_tar(file)) == expected
    assert len(expected) == len(members)


def _typed(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "a.txt"
    return info


def test_every_cut_gives_the_members_before_it(tmp_path):
    path = make_tar(tmp_path / "x.tar", {f"{i}.txt": b"x" * 600 for i in range(3)})
    whole = path.read_bytes()
    with open(path, "rb") as file:
        members = list(walk_tar(file))
    for length in (0, 100, 512, 1111, 1112, 1536, 2000, 4608):
        found = []
        with pytest.raises(CutShort):  # noqa: PT012
            for member in walk_tar(io.BytesIO(whole[:length])):
                found.append(member)
        assert found == [member for member in members if member.offset + member.size <= length]


def test_labels_that_are_numbers(tmp_path):
    labelled(tmp_path / "train-0.tar", [2, 0])
    labelled(tmp_path / "train-1.tar", [1, 0, None], first=2)
    labelled(tmp_path / "val-0.tar", [0])
    data, held = opened(tmp_path), opened(tmp_path, split="val")
    assert data.classes == held.classes == ("0", "1", "2")
    assert data.labels.tolist() == [2, 0, 1, 0]
    assert [data.read(i).target for i in range(4)] == [2, 0, 1, 0]
    assert levels(data) == [0, 1, 2, 3]
    assert data.name(2) == f"{tmp_path}/train-1.tar/0002.png"
    assert data.notes == ("1 of 5 samples in the shards have no class and are not used.",)
    assert held.labels.tolist() == [0]
    assert opened(tmp_path / "train-{0..1}.tar").labels.tolist() == [2, 0, 1, 0]
    assert opened(tmp_path / "train-*.tar", val=str(tmp_path / "val-*.tar"), split="val").classes == data.classes


def test_labels_that_are_names_and_names_of_classes_beside_the_shards(tmp_path):
    named = opened(labelled(tmp_path / "a" / "x.tar", ["wasp", "ant", "wasp"]))
    assert named.classes == ("ant", "wasp")
    assert named.labels.tolist() == [1, 0, 1]
    shard = labelled(tmp_path / "b" / "x.tar", [1, 0])
    (tmp_path / "b" / "classes.json").write_text('["ant", "bee", "wasp"]')
    data = opened(shard)
    assert data.classes == ("ant", "bee", "wasp")
    assert concerns(data, supervised=True) == ["1 of 3 classes has no image: 'wasp'."]
    labelled(tmp_path / "b" / "x.tar", [1, 3])
    with pytest.raises(UserError, match="not among the 3 known ones: '3'"):
        opened(shard)


def test_classes_and_captions_in_json_members(tmp_path):
    path = make_tar(
        tmp_path / "x.tar",
        {
            "0.png": picture(0), "0.json": b'{"label": 1, "caption": "zero", "alt": "null"}',
            "1.png": picture(1), "1.json": b'{"label": 0, "caption": ["one", "uno"], "alt": ""}',
            "2.png": picture(2), "2.json": b'{"label": 1}', "2.txt": b" two \n",
            "3.png": picture(3), "3.json": b"{broken",
        },
    )  # fmt: skip
    assert opened(path).labels.tolist() == [1, 0, 1]
    data = opened(path, captions=True)
    assert [data.read(i).target for i in range(3)] == [["zero"], ["one", "uno"], ["two"]]
    with pytest.raises(Unreadable, match="damaged"):
        data.read(3)
    other = opened(path, captions=True, caption_key="alt")
    assert other.read(0).target == ["null"]
    with pytest.raises(Unreadable, match="no caption"):
        other.read(1)
    assert other.labels is None


def test_shards_without_captions_are_refused_and_single_ones_said(tmp_path):
    with pytest.raises(UserError, match="no captions in the shards"):
        opened(labelled(tmp_path / "a.tar", [1, 2]), captions=True)
    jsons = make_tar(tmp_path / "b.tar", {"0.png": picture(0), "0.json": b'{"title_": "x"}'})
    with pytest.raises(UserError, match=r"no captions in the shards.*key 'caption'"):
        opened(jsons, captions=True)
    some = make_tar(tmp_path / "c.tar", {"0.png": picture(0), "0.txt": b"x", "1.png": picture(1), "1.txt": b""})
    data = opened(some, captions=True)
    assert len(data) == 1
    assert concerns(data, supervised=False) == ["1 of 2 samples in the shards have no caption and are not used."]


def test_images_without_anything_serve_self_supervision(tmp_path):
    data = opened(make_tar(tmp_path / "x.tar", {f"{i}.png": picture(i) for i in range(3)}))
    assert levels(data) == [0, 1, 2]
    assert data.classes is None
    assert data.read(0).target is None


def test_a_shard_cut_short_gives_its_readable_part_and_says_so(tmp_path):
    path = labelled(tmp_path / "x.tar", [0, 1, 0, 1])
    whole = path.read_bytes()
    with open(path, "rb") as file:
        ends = {name: offset + size for name, offset, size, _ in walk_tar(file)}
    path.write_bytes(whole[: ends["0002.cls"] - 1])  # the class of the third is lost
    data = opened(path)
    assert data.labels.tolist() == [0, 1]
    assert data.notes == (
        f"the shard '{path}' is cut short; 3 samples were found in it.",
        "1 of 3 samples in the shards have no class and are not used.",
    )
    path.write_bytes(whole[:700] + b"\xff" * 5000)
    assert opened(path).notes == (f"the shard '{path}' is damaged; 1 samples were found in it.",)
    path.write_bytes(whole[:500])
    with pytest.raises(UserError, match="is cut short"):
        opened(path)


def test_what_cannot_be_a_shard_says_why(tmp_path):
    plain = labelled(tmp_path / "x.tar", [0, 1])
    (tmp_path / "y.tar").write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(UserError, match="is compressed"):
        opened(tmp_path / "y.tar")
    (tmp_path / "z.tar").write_bytes(b"z" * 3000)
    with pytest.raises(UserError, match="is no tar archive"):
        opened(tmp_path / "z.tar")
    with pytest.raises(UserError, match=r"no shard '.*007\.tar'"):
        opened(str(tmp_path / "{007..008}.tar"))
    with pytest.raises(UserError, match="no shard matches"):
        opened(str(tmp_path / "q*.tar"))
    with pytest.raises(UserError, match="no image"):
        opened(make_tar(tmp_path / "w.tar", {"a.cls": b"1"}))


def test_real_shards(test_data):
    data = opened(test_data / "tiny-imagenet-30")
    assert len(data) == 4500
    assert len(data.classes) == 30
    with tarfile.open(test_data / "tiny-imagenet-30" / "train-001.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        in_first = len(names)
        truth = int(tar.extractfile(names[7].replace(".jpg", ".cls")).read())
    index = next(i for i in range(len(data)) if data.name(i).endswith(f"train-001.tar/{names[7]}"))
    assert data.read(index).target == truth
    assert in_first == sum("train-001.tar" in data.name(i) for i in range(len(data)))


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A folder served over HTTP: its URL, the folder, and the paths asked for so far."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder, asked
        httpd.shutdown()


def test_shards_behind_urls_are_fetched_once_and_read_as_local_ones(tmp_path, server):
    url, folder, asked = server
    labelled(folder / "0.tar", [1, 0])
    labelled(folder / "1.tar", [1, 1], first=2)
    data = opened(url + "/{0..1}.tar", cache=str(tmp_path / "cache"))
    assert data.labels.tolist() == [1, 0, 1, 1]
    assert levels(data) == [0, 1, 2, 3]
    asked.clear()
    again = opened(url + "/{0..1}.tar", cache=str(tmp_path / "cache"))
    assert levels(again) == [0, 1, 2, 3]
    assert not any(path.endswith(".tar") for path in asked)


def test_with_sizes_and_classes_a_shard_is_fetched_when_it_is_read_first(tmp_path, server):
    url, folder, asked = server
    labelled(folder / "0.tar", [1, 0])
    labelled(folder / "1.tar", [1, 9], first=2)
    (folder / "sizes.json").write_text(json.dumps({"0.tar": 2, "1.tar": 3}))
    (folder / "classes.json").write_text('["ant", "bee"]')
    data = opened(url + "/{0..1}.tar", cache=str(tmp_path / "cache"))
    assert len(data) == 5
    assert data.classes == ("ant", "bee")
    assert concerns(data, supervised=True) == []
    assert not any(path.endswith(".tar") for path in asked)
    assert data.read(2).target == 1
    assert [path for path in asked if path.endswith(".tar")] == ["/1.tar"]
    with pytest.raises(Unreadable, match="class is missing or unknown"):
        data.read(3)
    with pytest.raises(Unreadable, match=r"2 samples, fewer than sizes\.json says"):
        data.read(4)
    assert [data.read(i).target for i in range(2)] == [1, 0]
    assert data.name(1).endswith("0.tar/0001.png")


def test_many_who_want_the_same_shard_fetch_it_once(tmp_path, server):
    url, folder, asked = server
    labelled(folder / "0.tar", [1, 0])
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: remote.fetch(url + "/0.tar", tmp_path / "cache"), range(8)))
    assert set(paths) == {remote.cached(url + "/0.tar", tmp_path / "cache")}
    assert asked.count("/0.tar") == 1
    assert paths[0].read_bytes() == (folder / "0.tar").read_bytes()


def test_a_broken_connection_is_tried_again_and_leaves_no_half_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", (0, 0, 0))
    body = labelled(tmp_path / "0.tar", [1, 0]).read_bytes()
    tries = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            tries.append(self.path)
            if self.path == "/gone.tar":
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            enough = self.path == "/0.tar" and len(tries) > 2
            self.wfile.write(body if enough else body[:1000])
            return None

        def log_message(self, format, *args): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        url, cache = f"http://127.0.0.1:{httpd.server_port}", tmp_path / "cache"
        assert remote.fetch(f"{url}/0.tar", cache).read_bytes() == body
        assert len(tries) == 3
        tries.clear()
        with pytest.raises(UserError, match=r"cannot fetch .*never\.tar: .*1000 of"):
            remote.fetch(f"{url}/never.tar", cache)
        with pytest.raises(UserError, match="404"):
            remote.fetch(f"{url}/gone.tar", cache)
        assert tries == ["/never.tar"] * 3 + ["/gone.tar"]
        httpd.shutdown()
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == [
        remote.cached(f"{url}/0.tar", cache).name
    ]


def test_other_urls_go_through_webdataset(tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    monkeypatch.setattr(remote, "TRIES", (0,))
    labelled(tmp_path / "0.tar", [1, 0])
    data = opened(f"pipe:cat {tmp_path}/0.tar", cache=str(tmp_path / "cache"))
    assert levels(data) == [0, 1]
    with pytest.raises(UserError, match="cannot fetch pipe:"):
        opened(f"pipe:cat {tmp_path}/1.tar", cache=str(tmp_path / "cache"))
