"""What paths stand for: files, folders, globs, lists, archives, shards, and the errors where they stand for nothing."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from vitreg.data import ImageSource, Unreadable
from vitreg.data.sources.listing import expand_braces
from vitreg.errors import UserError
from vitreg.writing.ledger import LEDGER, note_written


def picture(level: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (level, level, level)).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(level))
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def levels(source: ImageSource) -> list[int]:
    return [item.open().getpixel((0, 0))[0] for item in source]


def names(source: ImageSource, root: Path) -> list[str]:
    return [os.path.relpath(item.name, root) for item in source]


def test_a_folder_is_searched_sorted_without_hidden_files_and_without_what_is_no_image(tmp_path):
    for name in ("b.PNG", "a/z.png", "a/b/c.png", "c.png", ".hidden.png", ".git/d.png"):
        put(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "a.md").write_text("no image")
    source = ImageSource([tmp_path])
    assert names(source, tmp_path) == ["a/b/c.png", "a/z.png", "b.PNG", "c.png"]
    assert len(source) == source.length == 4
    assert [item.index for item in source] == [0, 1, 2, 3]


def test_links_to_images_are_followed_and_links_to_folders_are_named(tmp_path):
    """A link to a folder may lead to the whole file system."""
    elsewhere = put(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "2.png")
    put(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "root").symlink_to("/")
    (tmp_path / "link").symlink_to(elsewhere.parent)
    (tmp_path / "2.png").symlink_to(elsewhere)
    source = ImageSource([tmp_path])
    assert names(source, tmp_path) == ["2.png", "a/1.png"]
    (note,) = source.notes
    assert f"3 links to folders in '{tmp_path}' not followed, such as '" in note
    assert names(ImageSource([tmp_path / "link"]), tmp_path) == ["link/2.png"]  # named
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "link").symlink_to(elsewhere.parent)
    with pytest.raises(UserError, match=r"1 link to folders .* not followed, such as .*only/link"):
        ImageSource([tmp_path / "only"])


def test_a_recursive_glob_ends_where_links_lead_back_up(tmp_path):
    """Two of them double the paths at every step."""
    put(tmp_path / "a" / "b" / "1.png")
    put(tmp_path / "2.png")
    put(tmp_path / ".hidden" / "3.png")
    for name in ("x", "y"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    for pattern in ("**/*.png", "**", "**/b/**/*.png"):
        expected = ["a/b/1.png"] if "b" in pattern else ["2.png", "a/b/1.png"]
        assert names(ImageSource([f"{tmp_path}/{pattern}"]), tmp_path) == expected
    assert names(ImageSource([f"{tmp_path}/a/*/*.png"]), tmp_path) == ["a/b/1.png", "a/x/2.png", "a/y/2.png"]


def test_several_paths_keep_their_order(tmp_path):
    for i, name in enumerate(("z.png", "b/2.png", "b/1.png", "a.png")):
        put(tmp_path / name, i)
    source = ImageSource([tmp_path / "z.png", str(tmp_path / "b"), tmp_path / "a.png"])
    assert levels(source) == [0, 2, 1, 3]
    assert source[2].name.endswith("2.png")
    with pytest.raises(IndexError):
        source[4]


def test_a_single_path_needs_no_list(tmp_path):
    assert len(ImageSource(put(tmp_path / "a.png"))) == 1


def test_a_file_named_by_the_user_is_tried_whatever_its_name(tmp_path):
    odd = put(tmp_path / "picture.dat", 7)
    text = tmp_path / "text.pdf"
    text.write_text("no image at all")
    source = ImageSource([odd, text])
    items = list(source)
    assert items[0].open().getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(Unreadable, match=r"^not an image$"):
        items[1].open()


def test_globs_match_sorted_and_pass_over_what_is_no_image(tmp_path):
    for name in ("b1.png", "a1.png", "a2.png", "d/a3.png", "odd.dat"):
        put(tmp_path / name)
    (tmp_path / "a9.txt").write_text("x")
    assert names(ImageSource([f"{tmp_path}/a*"]), tmp_path) == ["a1.png", "a2.png"]
    assert names(ImageSource([f"{tmp_path}/**/*.png"]), tmp_path) == ["a1.png", "a2.png", "b1.png", "d/a3.png"]
    assert names(ImageSource([f"{tmp_path}/*.dat"]), tmp_path) == ["odd.dat"]
    assert names(ImageSource([f"{tmp_path}/?"]), tmp_path) == ["d/a3.png"]
    put(tmp_path / "real[1].png")
    assert names(ImageSource([tmp_path / "real[1].png"]), tmp_path) == ["real[1].png"]


def test_a_list_file_names_images_relative_to_itself(tmp_path):
    put(tmp_path / "x" / "1.png", 1)
    put(tmp_path / "x" / "ü 2.png", 2)
    absolute = put(tmp_path / "3.png", 3)
    listing = tmp_path / "x" / "images.lst"
    listing.write_text(f"\ufeff1.png\r\n\n# a comment\nü 2.png\ngone.png\n{absolute}\n", encoding="utf-8")
    source = ImageSource([listing])
    items = list(source)
    assert [items[i].open().getpixel((0, 0))[0] for i in (0, 1, 3)] == [1, 2, 3]
    with pytest.raises(Unreadable, match="no such file"):
        items[2].open()


def test_a_text_that_is_no_list_is_skipped_with_the_reason(tmp_path):
    readme = tmp_path / "readme.txt"
    readme.write_text("These are photographs.\nOf birds.\n")
    source = ImageSource([put(tmp_path / "a.png"), readme])
    with pytest.raises(Unreadable, match=r"no list of images: there is no file 'These are photographs\.'"):
        source[1].open()


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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("phtos", "no file or folder '.*phtos'. Did you mean '.*photos'"),
        ("phtos/birds/1.png", "Did you mean '.*photos'"),
        ("photos/brids", "Did you mean '.*photos/birds'"),
        ("photos/qqqqqqqq", "the nearest that exists is '.*photos'"),
        ("photos/*.jpg", "nothing matches '.*jpg'"),
        ("texts/*", "no image matches .* 1 other file, such as"),
        ("texts", "no image in the folder .*: 1 other file, such as 'a.md'"),
        ("empty", "the folder '.*empty' is empty"),
        ("shards", "but archives: name them, such as '.*a.tar'"),
        ("shards/a.tar", "no image in the archive"),
        ("empty.lst", "names no image"),
        ("photos\0x", "no file or folder"),
        ("x" * 5000, "no file or folder"),
    ],
)
def test_paths_that_stand_for_nothing_are_errors(tmp_path, path, message):
    put(tmp_path / "photos" / "birds" / "1.png")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "shards").mkdir()
    make_tar(tmp_path / "shards" / "a.tar", {"a.txt": b"x"})
    (tmp_path / "empty.lst").write_text("\n# nothing\n")
    with pytest.raises(UserError, match=message) as error:
        ImageSource([f"{tmp_path}/{path}"])
    assert "\n" not in str(error.value)


def test_no_path_at_all_is_an_error():
    with pytest.raises(UserError, match="no images given"):
        ImageSource([])


def test_an_image_behind_a_url_is_an_error():
    with pytest.raises(UserError, match="download it"):
        ImageSource(["https://example.org/cat.jpg"])


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    put(tmp_path / "a.png")
    items = list(ImageSource([tmp_path]))
    with pytest.raises(Unreadable, match="not a regular file"):
        items[1].open()


def test_names_that_are_no_text_can_be_written_to_json(tmp_path):
    try:
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")))
    except OSError:
        pytest.skip("this file system takes text names only")
    (item,) = ImageSource([tmp_path])
    assert item.name.encode("utf-8").endswith(b"\\udcff.png")
    assert item.open().size == (20, 20)


def test_a_compressed_archive_cut_within_its_header_is_a_reason(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(b"no tar" * 1000)[:30])
    (item,) = ImageSource([path])
    with pytest.raises(Unreadable, match="damaged archive"):
        item.open()


@pytest.mark.parametrize(
    ("record", "schema", "drawn"),
    [
        ("result.json", "vitreg.scan/1", "figures/norms.png"),
        ("result.json", "vitreg.discover/1", "pictures/boxes.png"),
        ("result.json", "vitreg.eval/1", "complexity.png"),
        ("curves.json", "vitreg.curves/1", "curves.png"),
    ],
)
def test_figures_of_a_result_that_was_copied_without_hidden_files_are_no_images(tmp_path, record, schema, drawn):
    """What proves whose they are stayed behind; the record beside them says it."""
    photo, figure = tmp_path / "results" / "copy" / "photo.png", tmp_path / "results" / "copy" / drawn
    figure.parent.mkdir(parents=True, exist_ok=True)
    for path in (photo, figure):
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "results" / "copy" / record).write_text(json.dumps({"schema": schema, "model": {}}, indent=1))
    for paths in ([tmp_path / "results"], [str(tmp_path / "results" / "**" / "*.png")]):
        source = ImageSource(paths)
        assert [item.name for item in source.walk()] == [str(photo)]
        (note,) = source.notes
        assert "1 picture" in note
        assert "vitreg wrote itself" in note
    assert len(ImageSource([figure])) == 1, "what is named is read"
    page = tmp_path / "results" / "copy" / "page.html"
    page.write_text("of a comparison that was written into the copy")
    note_written(page.parent, [page.name], "compare")
    assert len(ImageSource([tmp_path / "results"])) == 1
    (page.parent / LEDGER).write_text("damaged")
    assert len(ImageSource([tmp_path / "results"])) == 1
    (tmp_path / "results" / "copy" / record).write_text('{"schema": "coco/1"}')
    assert len(ImageSource([tmp_path / "results"])) == 2
