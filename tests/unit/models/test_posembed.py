import pytest
import torch

from vitreg.models.posembed import resample_positions

# Column sums of the adjoint of 16 -> 7, antialiased, by size; the second half is the mirror image (the paper, App. A).
FLAT = [0.361, 0.492, 0.470, 0.432, 0.433, 0.438, 0.438, 0.437]


def test_equal_grids_give_the_very_same_table_back():
    table = torch.randn(1, 15, 4)
    assert resample_positions(table, (3, 5), (3, 5)) is table


def test_as_many_positions_on_another_grid_are_resampled():
    table = torch.randn(1, 16, 4)
    assert not torch.equal(resample_positions(table, (4, 4), (2, 8)), table)


def test_the_gradient_of_a_small_crop_has_no_stripes():
    table = torch.zeros(1, 256, 1, dtype=torch.float32, requires_grad=True)
    resample_positions(table, (16, 16), (7, 7)).sum().backward()
    gradient = table.grad.reshape(16, 16)
    c = torch.tensor(FLAT + FLAT[::-1])
    torch.testing.assert_close(gradient, torch.outer(c, c), atol=1.1e-3, rtol=0)
    assert gradient.mean().item() == pytest.approx((7 / 16) ** 2, abs=1e-5)
    assert gradient.std().item() == pytest.approx(0.022, abs=1e-3)


@pytest.mark.parametrize("pixels", [546, 602, 1092])
def test_sizes_at_which_a_scale_factor_fails(pixels):
    side = pixels // 14
    assert resample_positions(torch.randn(1, 37 * 37, 3), (37, 37), (side, side)).shape == (1, side * side, 3)


def test_a_constant_stays_constant_and_rows_are_rows():
    table = torch.arange(4.0).reshape(4, 1, 1).expand(4, 6, 1).reshape(24, 1)  # grows with the row
    wide = resample_positions(table, (4, 6), (4, 9)).reshape(4, 9)
    torch.testing.assert_close(wide, torch.arange(4.0)[:, None].expand(4, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(resample_positions(torch.ones(1, 24, 2), (4, 6), (7, 3)), torch.ones(1, 21, 2))


def test_rank_and_dtype_are_kept_and_the_work_is_done_in_float32():
    table = torch.randn(9, 4)
    half = resample_positions(table.bfloat16(), (3, 3), (5, 4))
    assert half.dtype == torch.bfloat16
    assert half.shape == (20, 4)
    torch.testing.assert_close(half, resample_positions(table.bfloat16().float(), (3, 3), (5, 4)).bfloat16())


def test_agrees_with_timm():
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(1, 14 * 10, 8)
    theirs = resample_abs_pos_embed(table, [9, 21], [14, 10], num_prefix_tokens=0)
    torch.testing.assert_close(resample_positions(table, (14, 10), (9, 21)), theirs)


@pytest.mark.parametrize(("source", "target"), [((4, 4), (2, 2)), ((3, 5), (0, 4))])
def test_impossible_grids_are_refused(source, target):
    with pytest.raises(ValueError, match="grid"):
        resample_positions(torch.zeros(1, 15, 2), source, target)
