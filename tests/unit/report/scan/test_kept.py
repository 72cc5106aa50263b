"""Examples come back as they were kept, within a scan folder's means; what does not fit together is refused."""

import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest

from vitreg.report.scan.kept import FILE_NAME, read_examples, write_examples
from vitreg.report.scan.payload import LONGEST_SIDE


def test_maps_come_back_number_for_number(make_examples, tmp_path):
    made = [replace(each, layer=7, attention_layer=9) for each in make_examples(2, registers=2)]
    made.append(replace(make_examples(1, cls=False, grid=(3, 5))[0], name="b\udcff.jpg", near=np.ones((3, 5), bool)))
    write_examples(made, tmp_path)
    for before, after in zip(made, read_examples(tmp_path), strict=True):
        for field in fields(before):
            if field.name not in ("image", "file"):  # it may have been through JPEG
                np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))
        assert np.abs(after.image.astype(int) - before.image).mean() < 4


def test_a_scan_without_images_keeps_an_empty_list(tmp_path):
    write_examples([], tmp_path)
    assert read_examples(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_of_the_files_name_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(ValueError, match="there is no"):
        read_examples(tmp_path)


def test_large_pictures_are_kept_as_large_as_a_page_shows_them(make_examples, tmp_path):
    example = replace(make_examples(1)[0], image=np.zeros((2000, 1000, 3), np.uint8))
    write_examples([example], tmp_path)
    assert read_examples(tmp_path)[0].image.shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)


def changed(path, **arrays):
    with np.load(path) as file:
        kept = dict(file)
    np.savez(path, **{name: each for name, each in (kept | arrays).items() if each is not None})


@pytest.mark.parametrize(
    "arrays",
    [
        {"0/norms": np.ones((2, 2))},
        {"0/outliers": np.zeros(4, bool)},
        {"0/attends": np.zeros((1, 8), int)},
        {"0/pca": np.full((14, 14, 3), "red")},
        {"0/norms": None},
        {"0/image": np.zeros(9, np.uint8)},
        {"examples": np.frombuffer(b"[3]", np.uint8)},
        {"examples": np.frombuffer(b"{", np.uint8)},
        {"examples": np.frombuffer(json.dumps([{"name": "a", "layer": "x", "attention_layer": 1}]).encode(), np.uint8)},
    ],
)
def test_what_does_not_fit_together_is_refused(arrays, make_examples, tmp_path):
    changed(write_examples(make_examples(1), tmp_path), **arrays)
    with pytest.raises(ValueError):
        read_examples(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=FILE_NAME):
        read_examples(tmp_path)


def test_pickled_objects_are_never_opened(make_examples, tmp_path):
    path = write_examples(make_examples(1), tmp_path)
    changed(path, **{"0/norms": np.array([{}], dtype=object)})
    with pytest.raises(ValueError):
        read_examples(tmp_path)
