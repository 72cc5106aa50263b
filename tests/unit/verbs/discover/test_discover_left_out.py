"""Images that are left out with their reason, and runs that are cut short."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from tests.unit.verbs.discover.by_hand import PREPROCESS, QUICK, vit

from vitreg.backbones.backbone import Backbone
from vitreg.errors import UserError
from vitreg.verbs.discover import model as discover_model
from vitreg.verbs.discover.model import DiscoverModel
from vitreg.verbs.discover.verb import DiscoverOptions, discover, summary


def test_a_model_of_one_size_asks_for_it(photos):
    fixed = Backbone(vit(), preprocess=PREPROCESS)
    fixed.anatomy = replace(fixed.anatomy, resizable=False)
    with pytest.raises(UserError, match=r"size 32x32"):
        discover(fixed, photos)
    assert discover(fixed, photos, options=DiscoverOptions(size=(32, 32))).images.seen == 5


def test_an_image_of_too_many_patches_is_left_out_with_its_reason(backbone, photos, monkeypatch):
    monkeypatch.setattr(discover_model, "MAX_PATCHES", 40)
    result = discover(backbone, photos)
    assert result.images.seen == 4  # 64 x 50 makes 8 x 7 patches
    (skipped,) = result.images.skipped
    assert "2.png" in skipped.name
    assert "50x64 px are 56 patches" in skipped.reason
    assert "--size" in skipped.reason


def test_ctrl_c_keeps_what_is_there_and_says_so(backbone, photos, truth, tmp_path, monkeypatch):
    prepare = DiscoverModel.prepare
    calls = []

    def stop(self, image):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return prepare(self, image)

    monkeypatch.setattr(DiscoverModel, "prepare", stop)
    result = discover(backbone, photos, boxes=truth, out=tmp_path / "out", options=QUICK)
    assert (result.images.seen, result.images.planned, result.images.interrupted) == (2, 5, True)
    assert summary(result).startswith("Stopped after 2 of 5 images.")
    assert len(json.loads((tmp_path / "out" / "boxes.json").read_text())["images"]) == 2
    calls[:] = [1, 1]
    with pytest.raises(UserError, match="nothing was written"):
        discover(backbone, photos, out=tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_a_disk_that_is_full_when_pictures_are_drawn_leaves_the_new_record_whole(
    backbone, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    discover(backbone, photos, out=out)

    def full(sheet, path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half a picture")
        raise UserError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr("vitreg.report.sheets.sheet.save", full)
    with pytest.raises(UserError, match="No space"):
        discover(backbone, photos, out=out, options=DiscoverOptions(limit=2))
    assert {path.name for path in out.rglob("*")} == {"result.json", "boxes.json", ".vitreg.json"}
    assert json.loads((out / "result.json").read_text())["images"]["seen"] == 2


def test_boxes_of_another_resolution_leave_the_image_out(backbone, photos, truth):
    Image.new("RGB", (61, 80)).save(photos / "0.png")
    result = discover(backbone, photos, boxes=truth)
    assert (result.corloc.images, result.images.seen) == (3, 4)
    assert "boxes are for 61x40 px, the picture has 61x80 px" in result.images.skipped[0].reason


@pytest.mark.parametrize(
    ("orientation", "size", "kept"),
    [(1, (40, 61), True), (2, (40, 61), False), (3, (40, 61), False), (4, (40, 61), False)]
    + [(o, (40, 61), True) for o in (5, 6, 7, 8)]
    + [(o, (48, 48), False) for o in (2, 5, 6, 7, 8)],
)
def test_boxes_that_may_be_of_the_picture_before_it_was_turned_leave_it_out(
    backbone, tmp_path, orientation, size, kept
):
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    height, width = size if orientation < 5 else size[::-1]
    Image.effect_noise((width, height), 60).convert("RGB").save(tmp_path / "photos" / "0.jpg", exif=exif)
    Image.effect_noise((60, 40), 60).convert("RGB").save(tmp_path / "photos" / "1.jpg")
    images = [{"id": 0, "file_name": "0.jpg", "height": size[0], "width": size[1]}]
    images += [{"id": 1, "file_name": "1.jpg", "height": 40, "width": 60}]
    boxes = [{"image_id": number, "bbox": [2, 3, 20, 20]} for number in (0, 1)]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    result = discover(backbone, tmp_path / "photos", boxes=tmp_path / "boxes.json")
    assert result.images.seen == 1 + kept
    assert [f"EXIF orientation {orientation} turns it" in skipped.reason for skipped in result.images.skipped] == (
        [] if kept else [True]
    )
