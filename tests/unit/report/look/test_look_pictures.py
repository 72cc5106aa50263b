"""The picture of a look: its colours are those of matplotlib's tables, outlines lie on patches, missing maps are words."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from vitreg.records import Example
from vitreg.report.look import palette, panels
from vitreg.report.look.picture import PANEL, Row, as_png, draw_look, scale_of
from vitreg.report.look.words import font, shortened, wrapped


def row(norms, **more):
    rows, cols = norms.shape
    values = {
        "cls_attention": np.ones((rows, cols), np.float32) / norms.size,
        "register_attention": np.zeros((0, rows, cols), np.float32),
    } | more
    example = Example(
        name="", image=np.zeros((32, 32, 3), np.uint8), outliers=norms > 5, norms=norms,
        pca=np.full((rows, cols, 3), 0.5), attends=np.zeros((norms.size, 0), np.int32), attends_share=np.zeros((norms.size, 0)),
        layer=3, attention_layer=4, **values,
    )  # fmt: skip
    return Row(name="a model", sentence="It has none.", example=example, photo=example.image, median=2.0, missing={})


@pytest.mark.parametrize(("held", "name"), [(palette.MAGMA, "magma"), (palette.VIRIDIS, "viridis")])
def test_the_colours_are_those_of_matplotlib(held, name):
    expected = 255 * matplotlib.colormaps[name](np.arange(256))[:, :3]
    assert np.abs(palette.table(held) - expected).max() <= 2.5


def test_what_is_not_a_number_is_empty():
    assert tuple(palette.coloured(np.array([np.nan]), palette.MAGMA)[0]) == palette.EMPTY


def test_one_scale_holds_the_norms_of_all_models():
    low, high = scale_of([row(np.full((2, 2), 2.0)), row(np.array([[1.0, 2.0], [2.0, 40.0]]))])
    assert (low, high) == (0.5, 20.0)
    low, high = scale_of([row(np.full((2, 2), 2.0))])
    assert low < 1 < high  # even norms look even
    assert scale_of([row(np.full((2, 2), np.nan))])


def test_equal_norms_of_two_models_have_one_colour():
    scale = scale_of([row(np.full((2, 2), 2.0)), row(np.array([[2.0, 2.0], [2.0, 40.0]]))])
    maps = [
        np.asarray(panels.norms(each / 2.0, scale, (8, 8)))
        for each in (np.full((2, 2), 2.0), np.array([[2.0, 2], [2, 40]]))
    ]
    assert (maps[0][0, 0] == maps[1][0, 0]).all()
    assert (maps[1][-1, -1] == palette.table(palette.MAGMA)[-1]).all()


def test_a_line_runs_around_the_marked_patches_only():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = mask[1, 2] = True
    drawn = np.asarray(panels.outline(Image.new("RGB", (400, 400)), mask))
    accent = (drawn == palette.ACCENT).all(-1)
    assert accent[100, 150]  # above the first patch
    assert not accent[150, 200]  # between the two
    assert not accent[:90].any()


@pytest.mark.parametrize("registers", [0, 1, 4, 16])
def test_a_picture_holds_a_row_for_each_model(registers):
    maps = np.ones((registers, 4, 4), np.float32)
    rows = [row(np.full((4, 4), 2.0), register_attention=maps), row(np.full((3, 5), 2.0), cls_attention=None)]
    page = draw_look("a.jpg", rows, "One photo.")
    assert page.width > 5 * PANEL
    assert page.height > 2 * PANEL
    assert as_png(page, "a")[:4] == b"\x89PNG"


def test_text_fits_its_width():
    face = font(15)
    lines = wrapped("many words " * 40, 300, face, most=3)
    assert len(lines) == 3
    assert all(face.getlength(line) <= 300 for line in lines)
    assert shortened("a" * 200 + ".jpg", 200, face).endswith(".jpg")
