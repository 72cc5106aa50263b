"""What paths stand for: files, folders, globs, lists, and the errors where they stand for nothing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.data.sources.small_files import levels, make_tar, names, put

from vitreg.data import ImageSource, Unreadable
from vitreg.data.sources.content import added, hash_of
from vitreg.errors import UserError
from vitreg.writing.ledger import LEDGER, note_written


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


def test_a_set_has_one_hash_in_any_order_and_another_for_any_other_byte(tmp_path):
    names = ("a.png", "b.png", "c.png")
    for number, name in enumerate(names):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / name)

    def hashed(order):
        items = [ImageSource([tmp_path / name])[0].reduced(lambda image: image.size) for name in order]
        return hash_of(added(digest for _, digest in items), len(items))

    whole = hashed(names)
    value = sum(int.from_bytes(hashlib.sha256((tmp_path / name).read_bytes()).digest(), "little") for name in names)
    assert whole == f"{value % 2**256:064x}"
    assert whole == hashed(names[::-1])
    assert whole != hashed(names[:2])
    assert whole != hashed((*names[:2], names[0]))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes() + b"\0")
    assert whole != hashed(names)
    size, first = ImageSource.of_pictures([Image.new("RGB", (32, 32))])[0].reduced(lambda image: image.size)
    _, other = ImageSource.of_pictures([Image.new("RGB", (16, 64))])[0].reduced(lambda image: image.size)
    assert size == (32, 32)
    assert first != other
    assert hash_of(added([first, None]), 2) is None
