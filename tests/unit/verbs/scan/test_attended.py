"""The token that an image's patches look at most, and each register, of numbers that are written down: every kind, by hand."""

import math

import pytest
import torch

from vitreg.verbs.scan.attended import (
    Tiles,
    by_register,
    most_attended,
    most_of_foreground,
    norms_of_kinds,
    norms_of_registers,
)
from vitreg.verbs.scan.taking import Taken, effective_number

NOTHING = torch.zeros(3, 0)


def taken(**changes):
    """Three images of four patches; patch 2 takes most, and its value is short and its norm large."""
    shares = torch.tensor([0.1, 0.1, 0.5, 0.1]).repeat(3, 1)
    numbers = {
        "attention": shares, "values": torch.tensor([1.0, 1.0, 0.1, 1.2]).repeat(3, 1),
        "norms": torch.tensor([1.0, 2.0, 60.0, 2.0]).repeat(3, 1), "register_attention": NOTHING, "register_values": NOTHING,
        "register_norms": NOTHING, "cls_attention": NOTHING, "cls_values": NOTHING, "cls_norms": NOTHING,
        "number": torch.full((3,), torch.nan), "sinks": torch.ones(3),
    }  # fmt: skip
    return Taken(**{**numbers, **changes})


def patches(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_the_most_attended_token_is_of_the_kind_that_the_data_say():
    background = patches([0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0])
    marked = patches([1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0])
    found = most_attended(taken(), Tiles(background, marked))
    assert (found["attention"], found["values"], found["norm"]) == pytest.approx((0.5, 0.1, 30.0))
    assert found["kinds"] == pytest.approx({"background": 2 / 3, "marked": 1 / 3})
    assert most_attended(taken(), Tiles(background, ~marked & ~background))["kinds"]["unmarked"] == pytest.approx(1 / 3)
    assert most_attended(taken(), Tiles())["kinds"] == {"patch": 1.0}


def test_registers_and_cls_are_among_them():
    one = {
        "register_attention": torch.tensor([[0.2, 0.1]] * 3),
        "register_values": torch.ones(3, 2),
        "register_norms": torch.ones(3, 2),
    }
    cls = {
        "cls_attention": torch.tensor([[0.6], [0.1], [0.1]]),
        "cls_values": torch.full((3, 1), 2.0),
        "cls_norms": torch.ones(3, 1),
    }
    found = most_attended(taken(attention=torch.full((3, 4), 0.15), **one, **cls), Tiles())
    assert found["kinds"] == pytest.approx({"register": 2 / 3, "cls": 1 / 3})
    assert found["attention"] == pytest.approx((0.6 + 0.2 + 0.2) / 3)
    assert found["values"] == pytest.approx(4 / 3)


def test_the_foreground_is_what_is_no_background_and_images_without_any_are_left_out():
    background = patches([0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1])
    shares = torch.tensor([[0.1, 0.2, 0.5, 0.1], [0.9, 0.0, 0.0, 0.0], [0.3, 0.1, 0.5, 0.4]])
    found = most_of_foreground(taken(attention=shares), Tiles(background))
    assert found["attention"] == pytest.approx((0.2 + 0.3) / 2)
    assert most_of_foreground(taken(), Tiles()) is None
    assert most_of_foreground(taken(), Tiles(torch.ones(3, 4, dtype=torch.bool))) is None


def test_norms_are_of_the_images_median():
    background = patches([0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0])
    assert norms_of_kinds(taken(), background) == pytest.approx((30 + (30 + 1) / 2) / 2)  # the median of two
    assert norms_of_kinds(taken(), None) is None
    assert norms_of_registers(taken()) is None
    with_registers = taken(register_norms=torch.tensor([[4.0, 8.0]] * 3), register_attention=torch.ones(3, 2))
    assert norms_of_registers(with_registers) == pytest.approx(3.0)


def test_each_register_has_its_share_and_several_share_the_work():
    shares = torch.tensor([[0.6, 0.2], [0.4, 0.0], [0.5, 0.1]])
    with_registers = taken(
        register_attention=shares, register_values=torch.tensor([[0.1, 2.0]] * 3), register_norms=torch.tensor([[4.0, 8.0]] * 3),
        number=torch.tensor([1.5, 1.0, 1.1]),
    )  # fmt: skip
    found = by_register(with_registers)
    assert found["attention"] == pytest.approx([0.5, 0.1])
    assert found["values"] == pytest.approx([0.1, 2.0])
    assert found["norms"] == pytest.approx([2.0, 4.0])
    assert found["number"] == pytest.approx(1.2)
    assert by_register(taken()) is None


def test_the_effective_number_is_all_where_they_are_equal_one_where_one_has_all_and_none_of_nothing():
    shares = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.9, 0.0, 0.0], [0.3, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = effective_number(shares).tolist()
    third = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found[:3] == pytest.approx([4.0, 1.0, third])
    assert math.isnan(found[3])
