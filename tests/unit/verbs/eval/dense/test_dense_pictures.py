import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.data.sets.example import Example
from vitreg.data.sources.decode import Unreadable
from vitreg.report.sheets.sheet import draw
from vitreg.verbs.eval.dense.pictures import SHOWN, SIDE, Album, class_colours
from vitreg.verbs.eval.dense.tokens import Case


class Scenes:
    """Pictures of one colour each; the second cannot be read."""

    def name(self, index):
        return f"folder/{index}.png"

    def read(self, index):
        if index == 1:
            raise Unreadable("gone")
        return Example(Image.new("RGB", (600, 300), (index, 0, 0)))


def case(index, truth):
    return Case(Scenes(), index, truth, predict=lambda read: None)


def test_the_first_images_are_kept_small_with_their_maps_in_place():
    album = Album()
    truth = torch.zeros(300, 600, dtype=torch.uint8)
    truth[150:, :300] = 1
    truth[:, 590:] = 255
    for index in range(SHOWN + 3):
        album.add(case(index, truth), {"true classes": truth, "head": torch.ones_like(truth)})
    sheet = album.of_classes("mIoU")
    assert sheet.rows == [f"{i}.png" for i in range(SHOWN)]
    image, true, head = sheet.columns
    assert [column.title for column in sheet.columns] == ["image", "true classes", "head"]
    assert image.cells[1] is None
    assert image.cells[2].shape == (SIDE // 2, SIDE, 3)
    assert (image.cells[2] == (2, 0, 0)).all()
    shown = true.cells[0]
    assert (shown[SIDE // 4 :, : SIDE // 2] == class_colours(np.array([[1]]))[0, 0]).all()
    assert (shown[: SIDE // 4, : SIDE // 2] == 0).all()
    assert (shown[:, -1] == 255).all()
    assert (head.cells[0] == class_colours(np.array([[1]]))[0, 0]).all()
    draw(sheet)


def test_every_class_has_a_colour_of_its_own():
    colours = class_colours(np.arange(256)[None])[0]
    assert len(np.unique(colours, axis=0)) == 256


def test_depths_share_a_scale_and_what_is_unknown_stays_white():
    album = Album()
    truth = torch.full((10, 20), 3.0)
    truth[0], truth[1] = 0.0, 50.0
    album.add(case(0, truth), {"true depth": truth, "head": torch.full((10, 20), 4.0)})
    sheet = album.of_depths("RMSE", 0.001, 10.0)
    assert (sheet.scale.low, sheet.scale.high) == (0.0, 4.0)
    true = sheet.columns[1].cells[0]
    assert np.isnan(true[:2]).all()
    assert (true[2:] == 3).all()
    draw(sheet)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (240, 240)])
def test_any_size_is_drawn(size):
    album = Album()
    truth = torch.zeros(size)
    album.add(case(0, truth), {"true depth": truth})
    assert album.of_depths("RMSE", 0.001, 10.0).columns[1].cells[0].shape[0] >= 1
    draw(album.of_depths("RMSE", 0.001, 10.0))
