import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from vitreg.discovery.boxes import centre_box, component, corloc, enclosing, hits, iou, to_pixels


def mask(*rows):
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


def test_a_component_hangs_together_by_sides_and_not_by_corners():
    whole = mask("##..", ".#..", "..##", "#..#")
    assert torch.equal(component(whole, 0), mask("##..", ".#..", "....", "...."))
    assert torch.equal(component(whole, 15), mask("....", "....", "..##", "...#"))
    assert torch.equal(component(whole, 2), mask("..#.", "....", "....", "...."))  # outside: the seed alone


def test_a_box_of_patches_is_rows_before_cols_and_leaves_its_end_out():
    assert enclosing(mask("....", ".##.", "...#")) == (1, 1, 3, 4)
    assert enclosing(mask("#")) == (0, 0, 1, 1)


def test_a_box_in_pixels_is_x_before_y_and_cut_to_the_image():
    assert to_pixels((1, 2, 3, 5), (14, 16), (100, 100)) == (32, 14, 80, 42)
    assert to_pixels((0, 0, 3, 5), (16, 16), (37, 70)) == (0, 0, 70, 37)
    with pytest.raises(ValueError, match="outside an image of 30x37"):
        to_pixels((0, 2, 1, 3), (16, 16), (37, 30))


def test_iou_is_torchvisions():
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 200, (40, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + draw.uniform(5, 150, (40, 2))], axis=1))
    a, b = boxes[:25], boxes[10:]
    torch.testing.assert_close(iou(a, b), box_iou(a, b), rtol=0, atol=1e-7)
    assert iou(a.float(), b.float()).dtype == torch.float64


def test_iou_adds_its_small_number_to_heights_and_union_only():
    wide, flat = torch.tensor([[0, 0, 10, 1e-7]]).double(), torch.tensor([[0, 0, 10, 0]]).double()
    assert iou(wide, wide).item() == pytest.approx(1e-6 / (2e-6 + 2e-6 - 1e-6 + 1e-7))
    assert iou(flat, flat).item() == 0
    assert iou(wide.mT.reshape(1, 4) * 0, flat).item() == 0  # no area at all, and no NaN


def test_a_hit_is_half_or_more_of_any_object():
    truth = [
        torch.tensor([[0, 0, 10, 20], [50, 50, 90, 90]]),  # half of the first
        torch.tensor([[0, 0, 10, 21]]),  # just below
        torch.tensor([[500, 0, 510, 20], [0, 0, 10, 10]]),
        torch.zeros(0, 4),  # nothing to hit
    ]
    predicted = [(0, 0, 10, 10)] * 4
    assert hits(predicted, truth).tolist() == [True, False, True, False]
    assert corloc(predicted, truth) == 0.5
    assert corloc(torch.tensor(predicted), truth) == 0.5


def test_corloc_needs_images_and_one_box_for_each():
    with pytest.raises(ValueError, match="no image"):
        corloc([], [])
    with pytest.raises(ValueError, match="1 boxes for the objects of 2 images"):
        corloc([(0, 0, 1, 1)], [torch.zeros(1, 4)] * 2)


def test_the_centre_box_covers_its_share_around_the_centre():
    x0, y0, x1, y1 = centre_box((100, 300), 0.25)
    assert (x0, y0, x1, y1) == pytest.approx((75, 25, 225, 75))
    assert centre_box((100, 300), 1) == (0, 0, 300, 100)
    for share in (0, 1.1):
        with pytest.raises(ValueError, match="cannot cover"):
            centre_box((100, 300), share)
