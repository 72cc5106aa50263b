import ast
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from vitreg.errors import UserError
from vitreg.report import Attempts
from vitreg.report.paper import writable
from vitreg.report.sheets import sheet as sheets
from vitreg.report.sheets.sheet import DPI, GAP, Column, Scale, Sheet, draw, save, shared_scale
from vitreg.report.words import middle
from vitreg.writing import files


def one_map(values, **more):
    return Sheet(title="t", rows=["a"], columns=[Column(title="m", cells=[np.asarray(values, np.float32)])], **more)


def picture_pixels(sheet, column, row=0):
    """The RGB pixels of one picture of a sheet, cut out of the drawn page."""
    figure = draw(sheet)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = np.asarray(canvas.buffer_rgba())[..., :3]
    box = figure.axes[row * len(sheet.columns) + column].get_window_extent()
    top, bottom = page.shape[0] - int(box.y1), page.shape[0] - int(box.y0)
    return page[top + 2 : bottom - 2, int(box.x0) + 2 : int(box.x1) - 2]


def colour(name, share):
    return np.round(np.array(matplotlib.colormaps[name](share)[:3]) * 255)


def test_rows_and_columns_of_a_map_stand_where_they_belong():
    values = np.zeros((2, 3))
    values[0, 2] = 1
    pixels = picture_pixels(one_map(values), 0)
    height, width = pixels.shape[:2]
    assert width == pytest.approx(height * 1.5, rel=0.05)  # 2 rows x 3 columns
    np.testing.assert_allclose(pixels[height // 4, width * 5 // 6], colour("viridis", 1.0), atol=1)
    np.testing.assert_allclose(pixels[height * 3 // 4, width // 6], colour("viridis", 0.0), atol=1)
    np.testing.assert_allclose(pixels[height * 3 // 4, width * 5 // 6], colour("viridis", 0.0), atol=1)


def test_one_scale_gives_equal_values_equal_colours_in_every_map():
    weak, strong = np.full((2, 2), 1.0), np.array([[1.0, 4.0], [4.0, 4.0]])
    columns = [Column(title="weak", cells=[weak]), Column(title="strong", cells=[strong])]
    shared = Sheet(title="t", rows=["a"], columns=columns, scale=Scale(low=0, high=4, label="norm", colours="magma"))
    first, second = picture_pixels(shared, 0), picture_pixels(shared, 1)
    np.testing.assert_allclose(first[20, 20], colour("magma", 0.25), atol=1)
    np.testing.assert_array_equal(first[20, 20], second[20, 20])
    np.testing.assert_allclose(second[-20, -20], colour("magma", 1.0), atol=1)


def test_without_a_scale_every_map_has_its_own():
    columns = [Column(title=str(k), cells=[np.array([[0.0, k], [k, k]])]) for k in (1.0, 9.0)]
    sheet = Sheet(title="t", rows=["a"], columns=columns)
    np.testing.assert_array_equal(picture_pixels(sheet, 0), picture_pixels(sheet, 1))


def test_every_patch_of_a_large_grid_is_drawn():
    checks = np.indices((90, 120)).sum(0) % 2
    sheet = one_map(checks)
    pixels = picture_pixels(sheet, 0)
    assert pixels.shape[1] >= 120 * sheets.PATCH_PIXELS - 5
    changes = (np.abs(np.diff(pixels[10].astype(int), axis=0)).sum(-1) > 100).sum()
    assert changes >= 117  # 119 borders between columns, less those at the cut


def test_upsampling_bilinear_blends_and_nearest_does_not():
    values = [[0.0, 1.0]]
    assert len(np.unique(picture_pixels(one_map(values, upsample="nearest"), 0).reshape(-1, 3), axis=0)) == 2
    assert len(np.unique(picture_pixels(one_map(values, upsample="bilinear"), 0).reshape(-1, 3), axis=0)) > 50


def test_rgb_and_photographs_keep_their_colours():
    photo = np.full((20, 40, 3), (10, 200, 30), np.uint8)
    rgb = np.full((2, 4, 3), (1.0, 0.5, 0.0), np.float32)
    columns = [Column(title="input", cells=[photo]), Column(title="rgb", cells=[rgb]), Column(title="no", cells=[None])]
    sheet = Sheet(title="t", rows=["a"], columns=columns)
    assert picture_pixels(sheet, 0)[10, 10].tolist() == [10, 200, 30]
    np.testing.assert_allclose(picture_pixels(sheet, 1)[10, 10], [255, 127.5, 0], atol=1)
    assert (picture_pixels(sheet, 2) == 255).all()


def test_saved_file_is_whole_and_alone(tmp_path):
    path = save(one_map(np.eye(3)), tmp_path / "new" / "a.png")
    with Image.open(path) as image:
        image.load()
        assert image.info["Title"] == "t"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    assert path.stat().st_mode & 0o400


def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path, monkeypatch):
    path = save(one_map(np.eye(3)), tmp_path / "a.png")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"a\.png: No space left on device"):
        save(one_map(np.zeros((3, 3))), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        save(one_map(np.eye(3)), tmp_path / "file" / "a.png")


@pytest.mark.parametrize("name", ["$x_{$", "日本.jpg", "bad\udcff.jpg", "line\nbreak", "<b>&", "n" * 300])
def test_any_file_name_can_be_a_label(name, tmp_path, recwarn):
    sheet = Sheet(title=name, rows=[name], columns=[Column(title=name, group=name, cells=[np.eye(2)])], caption=name)
    save(sheet, tmp_path / "a.png")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_shared_scale_covers_all_maps_and_says_what_it_clips():
    maps = [np.arange(100.0), np.array([[1000.0, np.nan]])]
    assert shared_scale(maps, "norm") == Scale(low=0, high=1000, label="norm", clipped="neither")
    clipped = shared_scale(maps, "norm", low=10, top=0.9)
    assert (clipped.low, clipped.clipped) == (10, "both")
    assert 80 < clipped.high < 100


@pytest.mark.parametrize("maps", [[], [np.full((2, 2), np.nan)], [np.full((2, 2), 7.0)], [np.zeros((2, 2))]])
def test_shared_scale_of_nothing_or_of_equal_values_can_still_be_drawn(maps):
    scale = shared_scale(maps, "norm")
    assert scale.high > scale.low
    draw(one_map(np.zeros((2, 2)), scale=scale))


def test_a_sheet_that_fails_is_named_and_the_others_are_written(tmp_path, monkeypatch):
    whole, broken = one_map(np.zeros((2, 2))), one_map(np.ones((2, 2)))
    usual = sheets.draw
    monkeypatch.setattr(sheets, "draw", lambda sheet: 1 / 0 if sheet is broken else usual(sheet))
    attempts = Attempts()
    sheets.save_all([("a.png", whole), ("b.png", broken), ("c.png", whole)], tmp_path, attempts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]
    (failed,) = attempts.failed
    assert failed.name == "b.png"
    assert "division by zero" in failed.reason
    assert failed.sentence.startswith("b.png could not be drawn (ZeroDivisionError in test_sheets.py")


def test_a_column_wants_a_picture_per_row():
    with pytest.raises(ValueError, match="1 pictures for 2 rows"):
        Sheet(title="t", rows=["a", "b"], columns=[Column(title="m", cells=[None])])


def test_drawing_needs_no_torch():
    tree = ast.parse(Path(sheets.__file__).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {n for n in names if n.split(".")[0] in {"torch", "jaxtyping"}}


LONG = "run:/home/someone/experiments/WWWW_MMMM_vits14_registers{}_batch1024_seed0\nblock 11 (last)"


def test_a_long_heading_is_whole_and_stays_over_its_own_pictures():
    columns = [Column(title="norm", group=LONG.format(n), cells=[np.eye(4)]) for n in (0, 4)]
    figure = draw(Sheet(title="t", rows=["a"], columns=columns))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    headings = [each for each in figure.texts if "block 11" in each.get_text()]
    assert [each.get_text().replace("\n", "") for each in headings] == [
        LONG.format(n).replace("\n", "") for n in (0, 4)
    ]
    for heading, axes in zip(headings, figure.axes, strict=True):
        drawn, picture = heading.get_window_extent(), axes.get_window_extent()
        gap = GAP * DPI / 2  # to the middle between two pictures
        assert picture.x0 - gap < drawn.x0
        assert drawn.x1 < picture.x1 + gap


def test_a_long_name_of_a_row_keeps_both_ends_and_stands_whole_below():
    name = "a_very_long_name_of_an_image_in_a_folder_0123456789_left.jpg"
    figure = draw(Sheet(title="t", rows=[name, "b.jpg"], columns=[Column(title="m", cells=[np.eye(4)] * 2)]))
    FigureCanvasAgg(figure).draw()
    said = [each.get_text() for each in figure.texts]
    label = next(text.replace("\n", "") for text in said if "…" in text)
    assert label.startswith("a_very")
    assert label.endswith("left.jpg")
    assert len(said[said.index("b.jpg") - 1].split("\n")) == 2
    assert f"Names in full: {name}." in said[-1].replace("\n", "").replace("full:a", "full: a")


def test_names_that_differ_at_their_end_can_be_told_apart():
    first, second = (writable(f"dinov2_vits14_batch1024_lr1e-3_registers{n}") for n in (0, 4))
    assert first != second
    assert middle("abcdefghij", 5) == "ab…ij"
    assert middle("abc", 5) == "abc"
