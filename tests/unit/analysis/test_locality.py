import pytest
import torch
import torch.nn.functional as F

from vitreg.analysis.locality import neighbour_cosine, neighbour_count


def naive(patches, grid):
    """The loop of the docstring."""
    rows, cols = grid
    out = torch.empty(patches.shape[:2], dtype=patches.dtype)
    for b in range(len(patches)):
        for r in range(rows):
            for c in range(cols):
                near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
                near = [(i, j) for i, j in near if 0 <= i < rows and 0 <= j < cols]
                me = patches[b, r * cols + c]
                cosines = [F.cosine_similarity(me, patches[b, i * cols + j], dim=0) for i, j in near]
                out[b, r * cols + c] = sum(cosines) / len(cosines)
    return out


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (1, 4), (4, 1), (2, 2)])
def test_equals_the_loop_of_the_docstring(grid):
    patches = torch.randn(2, grid[0] * grid[1], 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(neighbour_cosine(patches, grid), naive(patches, grid).float(), atol=1e-6, rtol=0)


def test_rows_and_columns_are_not_swapped():
    # Each row of a 2x3 grid has one direction: along a row the cosine is 1, across rows 0.
    patches = torch.eye(2).repeat_interleave(3, 0)[None]
    expected = torch.tensor([[1 / 2, 2 / 3, 1 / 2, 1 / 2, 2 / 3, 1 / 2]])
    torch.testing.assert_close(neighbour_cosine(patches, (2, 3)), expected)


def test_a_flat_image_is_fully_redundant_in_half_precision_too():
    patches = torch.full((1, 12, 8), 3.0, dtype=torch.bfloat16)
    torch.testing.assert_close(neighbour_cosine(patches, (3, 4)), torch.ones(1, 12))


def test_a_patch_without_neighbours_has_no_value():
    assert neighbour_cosine(torch.randn(2, 1, 4), (1, 1)).isnan().all()


def test_neighbour_counts():
    assert neighbour_count((3, 3)).tolist() == [[2, 3, 2], [3, 4, 3], [2, 3, 2]]


def test_a_wrong_grid_is_refused_by_name():
    with pytest.raises(ValueError, match="a 3x4 grid holds 12 patches, not 16"):
        neighbour_cosine(torch.randn(1, 16, 2), (3, 4))
