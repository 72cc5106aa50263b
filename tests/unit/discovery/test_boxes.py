import numpy as np
import pytest
import torch
from scipy.stats import binom
from torchvision.ops import box_iou

from vitreg.discovery.boxes import (
    bootstrap_interval,
    centre_box,
    component,
    corloc,
    enclosing,
    hits,
    iou,
    to_pixels,
)


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


@pytest.mark.parametrize(("count", "found"), [(80, 31), (225, 12), (9, 8)])
def test_the_interval_is_that_of_resampled_images(count, found):
    own = torch.arange(count) < found
    low, high = bootstrap_interval(own, 0)
    draw = np.random.default_rng(1)
    shares = own.numpy()[draw.integers(count, size=(10_000, count))].mean(1)
    slack = 1.01 / count  # quantiles of whole numbers of images
    assert (low, high) == pytest.approx(tuple(np.quantile(shares, (0.025, 0.975))), abs=slack)
    assert (low, high) == pytest.approx([binom.ppf(q, count, found / count) / count for q in (0.025, 0.975)], abs=slack)
    assert low < found / count < high
    assert bootstrap_interval(own, 0) == (low, high)


def test_the_interval_of_nothing_but_hits_is_a_point():
    assert bootstrap_interval(torch.ones(5, dtype=torch.bool), 0) == (1, 1)
    with pytest.raises(ValueError, match="no image"):
        bootstrap_interval(torch.zeros(0, dtype=torch.bool), 0)


def test_the_centre_box_covers_its_share_around_the_centre():
    x0, y0, x1, y1 = centre_box((100, 300), 0.25)
    assert (x0, y0, x1, y1) == pytest.approx((75, 25, 225, 75))
    assert centre_box((100, 300), 1) == (0, 0, 300, 100)
    for share in (0, 1.1):
        with pytest.raises(ValueError, match="cannot cover"):
            centre_box((100, 300), share)
