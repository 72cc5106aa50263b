"""Layouts say where every patch is: side by side, scattered, or gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitreg.errors import UserError
from vitreg.tokens import TokenLayout, Tokens, common_layout

GRID = (2, 3)
# Two registers between the patches, of which (0, 2) and (1, 0) are gone.
SCATTERED = TokenLayout(cls=(0,), registers=(2, 5), other=(), patches=(1, 3, -1, -1, 6, 4), grid=GRID)
BESIDE = TokenLayout.prefixed(GRID, cls_tokens=1, registers=2)


def test_indices_that_lie_side_by_side_are_a_slice():
    listed = TokenLayout(cls=(0,), registers=(1, 2), other=(), patches=(3, 4, 5, 6, 7, 8), grid=GRID)
    assert listed == BESIDE
    assert listed.patches == slice(3, 9)


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        ((1, 2, 3, 4, 5, 5), "exactly once"),
        ((1, 2, 3, 4, 5, -2), "exactly once"),
        ((1, 2, 3, 4, 6, -1), "exactly once"),
        ((1, 2, 3, 4, 5), "holds 6 patches, not 5"),
        ((-1,) * 6, "at least one"),
    ],
)
def test_every_index_has_one_role(patches, message):
    with pytest.raises(ValueError, match=message):
        TokenLayout(cls=(0,), registers=(), other=(), patches=patches, grid=GRID)


def test_a_patch_is_found_by_its_place():
    assert [SCATTERED.patch(r, c) for r in range(2) for c in range(3)] == [1, 3, -1, -1, 6, 4]
    assert SCATTERED.patch_index.tolist() == [1, 3, -1, -1, 6, 4]
    assert SCATTERED.present.tolist() == [True, True, False, False, True, True]
    assert (BESIDE.patch(0, 0), BESIDE.patch(1, 2), BESIDE.first_patch) == (3, 8, 3)
    assert (SCATTERED.first_patch, SCATTERED.length, SCATTERED.num_patches) == (1, 7, 6)
    for row, col in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(IndexError, match="2x3"):
            BESIDE.patch(row, col)


def test_roles_in_order():
    assert list(SCATTERED.roles()) == ["cls", "patch", "register", "patch", "patch", "register", "patch"]
    assert [SCATTERED.role(i) for i in range(7)] == list(SCATTERED.roles())
    for index in (-1, 7):
        with pytest.raises(IndexError):
            SCATTERED.role(index)


@pytest.mark.parametrize("axis", [1, -2])
def test_take_gives_patches_in_the_order_of_the_grid(axis):
    values = torch.arange(2 * 7 * 4.0).view(2, 7, 4)
    found = SCATTERED.take(values, axis)
    for cell, index in enumerate((1, 3, -1, -1, 6, 4)):
        if index < 0:
            assert found[:, cell].isnan().all()
        else:
            assert torch.equal(found[:, cell], values[:, index])
    assert torch.equal(BESIDE.take(torch.arange(9), 0), torch.arange(3, 9))


def test_take_does_not_copy_patches_that_lie_side_by_side():
    values = torch.zeros(2, 9, 4)
    BESIDE.take(values)[:] = 1
    assert values[:, 3:].eq(1).all()
    assert values[:, :3].eq(0).all()


def test_take_reads_arrays_and_integers():
    codes = np.arange(14).reshape(2, 7)
    assert SCATTERED.take(codes, -1, fill=0).tolist() == [[1, 3, 0, 0, 6, 4], [8, 10, 0, 0, 13, 11]]
    assert BESIDE.take(np.arange(9), 0).tolist() == [3, 4, 5, 6, 7, 8]


def test_gradients_pass_to_the_patches_that_are_there():
    values = torch.randn(1, 7, 2, requires_grad=True)
    SCATTERED.take(values, fill=0.0).square().sum().backward()
    assert values.grad is not None
    assert values.grad[0].abs().sum(1).ne(0).tolist() == [role == "patch" for role in SCATTERED.roles()]


def test_tokens_that_were_taken_out_leave_patches_gone():
    layout = BESIDE.without([1, 4, 8])
    assert (layout.cls, layout.registers) == ((0,), (1,))
    assert [layout.patch(r, c) for r in range(2) for c in range(3)] == [2, -1, 3, 4, 5, -1]
    assert layout.length == 6
    with pytest.raises(ValueError, match="no token 9"):
        BESIDE.without([9])


def test_registers_are_added_before_the_first_patch_and_taken_away_again():
    more = SCATTERED.with_registers(2)
    assert more.registers == (1, 2, 4, 7)
    assert more.patch_index.tolist() == [3, 5, -1, -1, 8, 6]
    assert more.with_registers(-2) == SCATTERED
    with pytest.raises(ValueError, match="not 1 registers"):
        SCATTERED.with_registers(-1)


def test_tokens_with_patches_that_are_gone():
    tokens = Tokens(torch.randn(2, 7, 4), SCATTERED)
    there = tokens.values[:, [1, 3, 6, 4]]
    assert torch.allclose(tokens.mean_patch, there.mean(1))
    assert tokens.patch_map.shape == (2, 4, 2, 3)
    assert tokens.patch_map.isnan().all(1)[0].tolist() == [[False, False, True], [True, False, False]]
    assert torch.equal(tokens.patch_map[:, :, 1, 2], tokens.values[:, 4])
    assert "2 of them gone" in repr(tokens)


def test_a_common_layout_has_a_place_for_every_token():
    dropped = BESIDE.without([4, 8])
    assert common_layout([BESIDE, dropped, dropped]) is BESIDE
    assert dropped.places(BESIDE).tolist() == [0, 1, 2, 3, -1, 4, 5, 6, -1]
    more = dropped.with_registers(1)
    wide = common_layout([dropped, more])
    assert wide == TokenLayout.prefixed(GRID, cls_tokens=1, registers=3)
    assert dropped.places(wide).tolist() == [0, 1, 2, -1, 3, -1, 4, 5, 6, -1]
    assert SCATTERED.places(common_layout([SCATTERED, BESIDE])).tolist() == [0, 2, 5, 1, 3, -1, -1, 6, 4]
    values = torch.arange(7.0)
    moved = values[SCATTERED.places(BESIDE).clamp(min=0)]
    there = SCATTERED.present
    assert torch.equal(BESIDE.take(moved, 0)[there], SCATTERED.take(values, 0)[there])


def test_blocks_on_several_grids_are_not_compared():
    with pytest.raises(UserError, match="patches on grids of 1x3 and 2x3"):
        common_layout([BESIDE, TokenLayout.prefixed((1, 3), cls_tokens=1)])


def test_summaries_that_are_collected_do_not_keep_all_tokens_in_memory():
    tokens = Tokens(torch.randn(2, 11, 5), TokenLayout.prefixed((3, 3), cls_tokens=1, registers=1))
    for found in (tokens.cls, tokens.registers, tokens.mean_patch):
        assert found.untyped_storage().nbytes() == found.numel() * found.element_size()
