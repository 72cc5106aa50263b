"""Sheets come back from their file as they are drawn, and a file from anywhere can do nothing."""

import json

import numpy as np
import pytest
from PIL import Image

from vitreg.report.attempts import Attempts
from vitreg.report.npz import read_npz
from vitreg.report.sheets.kept import keep_and_draw, read_sheets, write_sheets
from vitreg.report.sheets.sheet import Column, Scale, Sheet

DRAW = np.random.default_rng(0)


def sheet(**changes):
    photograph = DRAW.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    columns = [
        Column(title="input", cells=[photograph, None]),
        Column(title="norm", group="a", cells=[DRAW.lognormal(3, 2, (4, 6)).astype(np.float32)] * 2),
        Column(title="rgb", cells=[DRAW.random((4, 6, 3)), np.full((4, 6), np.nan)]),
    ]
    words = {"title": "caf\udce9", "rows": ["a", "b"], "columns": columns, "scale": Scale(low=0.1, high=9.0, label="x")}
    return Sheet(**{**words, "caption": "c", "upsample": "bilinear", **changes})


def test_words_come_back_and_maps_to_half_a_thousandth(tmp_path):
    before = sheet()
    ((name, after),) = read_sheets(write_sheets([("a.png", before)], tmp_path / "x.npz"))
    assert name == "a.png"
    assert (after.title, after.rows, after.scale, after.caption) == (before.title, ["a", "b"], before.scale, "c")
    assert [(c.title, c.group) for c in after.columns] == [(c.title, c.group) for c in before.columns]
    assert after.columns[0].cells[1] is None
    for one, other in zip(before.columns[1:], after.columns[1:], strict=True):
        for mine, kept in zip(one.cells, other.cells, strict=True):
            np.testing.assert_allclose(kept, mine, rtol=2**-11, atol=2**-25 * 1000)
    difference = after.columns[0].cells[0].astype(int) - before.columns[0].cells[0]
    assert np.abs(difference).mean() < 20  # noise is the worst that JPEG can be given


@pytest.mark.parametrize("top", [1e-300, 1e-40, 65504.0, 1e30, 1e300])
def test_maps_of_any_range_come_back(tmp_path, top):
    values = np.array([[0.0, top, -top / 3, np.nan, np.inf, -np.inf]])
    one = sheet(rows=["a"], columns=[Column(title="x", cells=[values])])
    ((_, after),) = read_sheets(write_sheets([("a.png", one)], tmp_path / "x.npz"))
    np.testing.assert_allclose(after.columns[0].cells[0], values, rtol=2**-11)


def test_flat_colours_come_back_exactly_and_large_pictures_smaller(tmp_path):
    flat = np.zeros((50, 70, 3), np.uint8)
    flat[10:30, 20:60] = (200, 30, 90)
    large = DRAW.integers(0, 255, (300, 1200, 3)).astype(np.uint8)
    one = sheet(columns=[Column(title="x", cells=[flat, large])])
    ((_, after),) = read_sheets(write_sheets([("a.png", one)], tmp_path / "x.npz"))
    assert (after.columns[0].cells[0] == flat).all()
    assert after.columns[0].cells[1].shape == (150, 600, 3)


def test_a_cell_is_kept_once_however_often_it_is_shown(tmp_path):
    one = sheet()
    write_sheets([("a.png", one), ("b.png", one)], tmp_path / "x.npz")
    assert read_npz(tmp_path / "x.npz", lambda arrays: len(arrays.files)) == 1 + 4


def test_what_is_drawn_is_what_is_kept(tmp_path):
    keep_and_draw([("a.png", sheet(title="a"))], tmp_path, "x.npz", Attempts())
    keep_and_draw(read_sheets(tmp_path / "x.npz"), tmp_path / "again", "y.npz", Attempts())
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "again" / "a.png") as second:
        difference = np.asarray(first).astype(int) - np.asarray(second)
    assert np.abs(difference).max() <= 60  # a JPEG of a JPEG
    assert (np.abs(difference) > 0).mean() < 0.2


def test_sheets_too_large_to_keep_are_drawn_and_this_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.report.npz.LARGEST", 100)
    attempts = Attempts()
    keep_and_draw([("a.png", sheet(title="a"))], tmp_path, "x.npz", attempts)
    assert [each.name for each in attempts.failed] == ["x.npz"]
    assert (tmp_path / "a.png").is_file()
    assert not (tmp_path / "x.npz").exists()


def changed(path, **words):
    """The file with other words about its one sheet."""
    with np.load(path) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    known = json.loads(held["sheets"].tobytes())
    known["sheets"][0].update(words)
    held["sheets"] = np.frombuffer(json.dumps(known).encode(), np.uint8)
    np.savez(path, **held)


@pytest.mark.parametrize(
    "words",
    [
        {"file": "../a.png"}, {"file": "/a.png"}, {"file": ".png"}, {"file": "a.html"}, {"file": 3}, {"rows": []},
        {"columns": [{"title": "x", "group": "", "cells": [99, 99]}]}, {"columns": 3}, {"scale": {"low": 0}},
    ],
)  # fmt: skip
def test_a_foreign_file_is_refused(tmp_path, words):
    path = write_sheets([("a.png", sheet(title="a"))], tmp_path / "x.npz")
    changed(path, **words)
    with pytest.raises(ValueError, match=r"x\.npz|sheet|column"):
        read_sheets(path)
