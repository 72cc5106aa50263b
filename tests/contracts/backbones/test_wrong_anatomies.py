"""The suite says in a sentence what is wrong with an anatomy: one mistake of each kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from vitreg.backbones.anatomy.parts import prefixed_layout
from vitreg.backbones.backbone import Backbone
from vitreg.errors import UserError
from vitreg.testing import check_backbone
from vitreg.testing.toys import DropsTokens, RegistersBetween, ToyViT


def message(toy=ToyViT, **changes):
    model = toy()
    with pytest.raises((AssertionError, UserError)) as caught:
        check_backbone(Backbone(model, replace(model.anatomy(), **changes)))
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_wrong_patch():
    said = message(patch=(16, 16))
    assert "patches of 16x16, and the patch projection has a stride of 8x8" in said


def test_a_wrong_grid():
    said = message(layout=prefixed_layout((16, 16), cls_tokens=1))
    assert "a grid of 2x2 at 32x32 pixels, where patches of 8x8 make 4x4" in said


@pytest.mark.parametrize("registers", [0, 3])
def test_a_wrong_number_of_registers(registers):
    said = message(RegistersBetween, layout=prefixed_layout((8, 8), cls_tokens=1, registers=registers))
    assert f"block 0 puts out 11 tokens where its anatomy says {7 + registers}" in said


def test_registers_that_are_taken_for_class_tokens():
    said = message(RegistersBetween, layout=prefixed_layout((8, 8), cls_tokens=5))
    assert "4 learned registers but 0 in the layout" in said


def test_tokens_in_another_order():
    said = message(RegistersBetween, layout=prefixed_layout((8, 8), cls_tokens=1, registers=4))
    assert "the pixels of patch (0, 0) change token 0 most, which the layout calls a cls" in said


def test_columns_before_rows():
    def layout(size):
        plain = ToyViT().layout(size)
        rows, cols = plain.grid
        return replace(plain, patches=tuple(plain.patch(i % rows, i // rows) for i in range(rows * cols)))

    assert "change token 4 most, which the layout calls patch (3, 0): it has the patch at 13" in message(layout=layout)


def test_blocks_in_another_order():
    model = ToyViT()
    anatomy = replace(model.anatomy(), blocks=(model.blocks[1], model.blocks[0], model.blocks[2]))
    with pytest.raises(AssertionError, match=r"run in the order \[1, 0, 2\]"):
        check_backbone(Backbone(model, anatomy))


def test_a_block_left_out():
    model = ToyViT()
    with pytest.raises(AssertionError, match=r"the last of Anatomy\.blocks is not the last that runs"):
        check_backbone(Backbone(model, replace(model.anatomy(), blocks=tuple(model.blocks[:2]), attention=(), mlp=())))


def test_a_wrong_final_norm():
    assert "Anatomy.final_norm is another module" in message(final_norm=nn.Identity())


def test_dropped_tokens_that_nobody_told_of():
    said = message(DropsTokens, layout_after=None)
    assert "block 1 puts out 5 tokens where its anatomy says 7" in said
    assert "Anatomy.layout_after" in said
