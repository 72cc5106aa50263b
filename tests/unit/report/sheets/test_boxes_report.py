import numpy as np
import pytest

from vitreg.report.sheets.boxes import (
    ACROSS,
    DOWN,
    FOUND,
    SIDE,
    STRIP,
    TRUE,
    Picture,
    Steps,
    box_sheets,
    regions_of,
    step_sheets,
)
from vitreg.report.sheets.sheet import save

WORDS = {"title": "Objects", "subtitle": "", "caption": "First."}


def picture(name="a.jpg", size=(100, 200), found=((20.0, 10.0, 60.0, 90.0),), true=(), overlap=None):
    grey = np.full((50, 100, 3), 128, np.uint8)
    return Picture(name=name, pixels=grey, size=size, found=found, true=true, overlap=overlap)


def coloured(cell, colour):
    """Rows and columns, first and last, of the pixels of one colour."""
    rows, cols = np.nonzero((cell == colour).all(-1))
    return rows.min(), cols.min(), rows.max(), cols.max()


def test_a_box_is_drawn_where_it_lies_in_the_image():
    (sheet,) = box_sheets([picture(true=((100.0, 50.0, 200.0, 100.0),))], **WORDS)
    cell = sheet.columns[0].cells[0]
    assert cell.shape == (SIDE // 2 + STRIP, SIDE, 3)
    scale = SIDE / 200
    for colour, (x0, y0, x1, y1) in ((FOUND, (20, 10, 60, 90)), (TRUE, (100, 50, 200, 100))):
        top, left, bottom, right = coloured(cell, colour)
        assert (top - STRIP) / scale == pytest.approx(y0, abs=1.5)
        assert left / scale == pytest.approx(x0, abs=1.5)
        assert (bottom + 1 - STRIP) / scale == pytest.approx(y1, abs=1.5)
        assert (right + 1) / scale == pytest.approx(x1, abs=1.5)


def test_boxes_are_told_apart_in_the_caption_only_where_they_are():
    assert box_sheets([picture()], **WORDS)[0].caption == "First. Orange: the box that was found."
    both = box_sheets([picture(found=((0.0, 0.0, 9.0, 9.0),) * 2, true=((0.0, 0.0, 9.0, 9.0),))], **WORDS)[0].caption
    assert "thin" in both
    assert "Light blue: true" in both


def test_pictures_of_any_aspect_share_a_page_and_many_fill_several():
    many = [picture(f"{i}.jpg", size=(100, 200) if i % 2 else (300, 90)) for i in range(ACROSS * DOWN + 2)]
    sheets = box_sheets(many, **WORDS)
    assert [len(sheet.columns) for sheet in sheets] == [ACROSS, 2]
    assert sheets[1].rows == [f"{ACROSS * DOWN + 1} to {ACROSS * DOWN + 2}"]
    assert sheets[0].title == "Objects (1 of 2)"
    assert len({cell.shape for column in sheets[0].columns for cell in column.cells}) == 1
    assert box_sheets([], **WORDS) == []


def test_maps_lie_as_their_images_do(tmp_path):
    """A wide image and a tall one on a page: what a map leaves free is not drawn."""
    wide = Steps(picture=picture(), full=(104, 208), maps={"degree": np.ones((4, 8), np.float32)}, regions=None)
    mask = np.zeros((8, 4), bool)
    mask[2:5, 1] = True
    regions = regions_of(mask, [9, 30], 13)
    tall = Steps(
        picture=picture(size=(200, 100)), full=(208, 104), maps={"degree": np.ones((8, 4), np.float32)}, regions=regions
    )
    (sheet,) = step_sheets([wide, tall], **WORDS)
    assert [column.title for column in sheet.columns] == ["input and boxes", "degree", "seed and object"]
    first, second = sheet.columns[1].cells
    assert first.shape == second.shape == (8, 8)
    assert np.isfinite(first).sum() == np.isfinite(second).sum() == 32
    assert np.isfinite(first[:4]).all()
    assert np.isfinite(second[:, :4]).all()
    assert regions.tolist()[2:5] == [[0, 2, 0, 0], [0, 3, 0, 0], [0, 1, 0, 0]]
    assert regions[7, 2] == 2
    assert sheet.columns[2].cells[0] is None
    image = sheet.columns[0].cells[0]
    assert tuple(image[10, SIDE - 3]) == (190, 190, 190)  # the padding of the wide image, right of its pixels
    assert save(sheet, tmp_path / "steps.png").stat().st_size > 1000
