"""Names of photos tell all of them apart with as few folders as that takes, and never two are alike."""

import os

import pytest

from vitreg.data.sources.images import ImageItem
from vitreg.data.sources.parts import Held, OnDisk
from vitreg.verbs.look.names import Names, identity


@pytest.mark.parametrize(
    ("paths", "called"),
    [
        (["a/f/x.jpg", "b/f/x.jpg"], ["a/f/x.jpg", "b/f/x.jpg"]),
        (["c/a/f/x.jpg", "c/b/f/x.jpg", "c/b/f/y.jpg"], ["a/f/x.jpg", "b/f/x.jpg", "y.jpg"]),
        (["rome/1.png", "t/oslo/1.png", "t/old/oslo/1.png"], ["rome/1.png", "t/oslo/1.png", "old/oslo/1.png"]),
        (["x.jpg", "a/x.jpg"], ["x.jpg", "a/x.jpg"]),
        (["a/x.jpg", "a/x.jpg", "a/x.jpg"], ["x.jpg", "x.jpg (2)", "x.jpg (3)"]),
        (["x.jpg", "x.jpg", "x.jpg (2)"], ["x.jpg", "x.jpg (3)", "x.jpg (2)"]),
        ([r"a\x.jpg", "a/x.jpg"], ["a/x.jpg", "a/x.jpg (2)"]),
        (["image 0", "image 0"], ["image 0", "image 0 (2)"]),
    ],
)
def test_the_shortest_ends_that_tell_all_apart(paths, called):
    names = Names((path, path) for path in paths)
    assert [names.call(path, path) for path in paths] == called


def test_photos_of_a_stream_are_told_apart_from_those_before():
    names = Names([("a/x.jpg", "1")])
    assert [names.call(*each) for each in (("a/x.jpg", "1"), ("u/x.jpg", "2"), ("v/x.jpg", "3"))] == [
        "x.jpg", "u/x.jpg", "v/x.jpg",
    ]  # fmt: skip


def test_one_file_in_two_spellings_is_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spelled = ["x.jpg", "./x.jpg", f"{tmp_path}{os.sep}x.jpg"]
    items = [ImageItem(number, path, OnDisk(path, path)) for number, path in enumerate(spelled)]
    assert len({identity(item) for item in items}) == 1
    names = Names((item.name, identity(item)) for item in items)
    assert [names.call(item.name, identity(item)) for item in items] == ["x.jpg", "x.jpg (2)", "x.jpg (3)"]
    assert identity(ImageItem(0, "a.zip/x.jpg", Held("a.zip/x.jpg", b""))) == "a.zip/x.jpg"
