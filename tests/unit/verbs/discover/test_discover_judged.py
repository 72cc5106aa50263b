"""Boxes are held against the truth and against controls, and the verdict says how sure it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.verbs.discover.by_hand import judged_by_hand
from torchvision.ops import box_iou

from vitreg.verbs.discover.judge import SHARES, Judge
from vitreg.verbs.discover.setting import Setting
from vitreg.verbs.discover.verb import DiscoverOptions, discover


def test_few_images_have_the_interval_that_few_images_have(backbone, photos, truth):
    result = discover(backbone, photos, boxes=truth, options=DiscoverOptions(limit=1))
    assert (result.corloc.low, result.corloc.high) == pytest.approx((20.65, 100), abs=0.01)
    assert "3 annotated images were not looked at." in result.notes


def test_overlaps_and_controls_agree_with_torchvision():
    boxes, true = [(0.0, 0.0, 50.0, 50.0), (20.0, 10.0, 90.0, 80.0)], [(10, 10, 90, 70), (0, 0, 40, 60)]
    row = judged_by_hand(100, 80, boxes, true)
    expected = box_iou(torch.tensor(boxes), torch.tensor(true, dtype=torch.float32)).amax(1)
    np.testing.assert_allclose(row.overlaps, expected, rtol=1e-5)
    for share, overlap in zip([*SHARES, 1.0], row.controls, strict=True):
        side = share**0.5
        box = [50 - 50 * side, 40 - 40 * side, 50 + 50 * side, 40 + 40 * side]
        best = box_iou(torch.tensor([box]), torch.tensor(true, dtype=torch.float32)).max()
        assert overlap == pytest.approx(float(best), abs=1e-5)


class Everything:
    """Stands for a set of boxes that knows every image."""

    source, convention, dropped = "set", "none", 0

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def find(self, name):
        return name


def test_boxes_of_a_single_patch_are_said():
    row = judged_by_hand(10, 10, [(0.0, 0.0, 5.0, 5.0)], [(0, 0, 10, 10)])
    alone = replace(row, patches=1)
    for rows, said in (([alone, row, row, row], False), ([alone, alone, row], True)):
        notes = Judge(None).verdict(rows, [Setting()]).notes
        assert any("In 2 of 3 images the box is a single patch" in note for note in notes) == said


def test_the_verdict_counts_warns_and_judges_halves():
    hits = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 0]])
    base = judged_by_hand(10, 10, [(0.0, 0.0, 5.0, 5.0)], [(0, 0, 10, 10)])
    rows = [replace(base, index=i, overlaps=np.where(h, 0.5, 0.49).astype(np.float32)) for i, h in enumerate(hits)]
    settings = [Setting().resolved(3), Setting(feature="v").resolved(3)]
    verdict = Judge(Everything(6)).verdict(rows, settings)
    assert verdict.corloc.value == 50
    assert verdict.corloc.low < 50 < verdict.corloc.high
    assert verdict.controls["whole image"] == 100
    (warning,) = (note for note in verdict.notes if note.startswith("WARNING"))
    assert warning == (
        "WARNING: the centre box of 50 % of the area (best of 9 shares) has 100.0 %, and looks at no image; 50.0 % says "
        "nothing for the model."
    )
    # Even places choose the first setting, which never hits on odd ones; odd choose the second, which never hits on even.
    assert verdict.sweep.halves == 0
    assert Judge(Everything(6)).verdict(rows[:3], settings).sweep.halves is None
