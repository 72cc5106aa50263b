"""Position tables of files: what fits is taken as it is, what does not is resampled, and no row is lost."""

import itertools

import pytest
import torch

from vitreg.backbones.weights.positions import fit_positions
from vitreg.models.posembed import resample_positions

SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16, 17)
# (cls, dist, registers) of the file and the model, and every number of them that can have a row in a table.
TOKENS = [(1, 0, 0), (0, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 4), (0, 0, 4), (1, 1, 4)]


def checkpoint(rows, cols, prefix, tokens):
    cls, dist, registers = tokens
    counts = {"cls_token": cls, "dist_token": dist, "reg_token": registers}
    tensors = {name: torch.randn(1, count, 2) for name, count in counts.items() if count}
    return tensors | {"pos_embed": torch.randn(1, prefix + rows * cols, 2)}


def prefixes(tokens):
    return sorted({0, *itertools.accumulate(tokens)})


@pytest.mark.parametrize("tokens", TOKENS, ids=str)
@pytest.mark.parametrize("rows", SIDES)
def test_a_table_that_fits_is_never_resampled_whichever_tokens_have_rows_in_it(rows, tokens):
    for cols, has, wants in itertools.product(SIDES, prefixes(tokens), prefixes(tokens)):
        tensors = checkpoint(rows, cols, has, tokens)
        fitted, fit = fit_positions(tensors, wants + rows * cols, (rows, cols))
        assert (fit.file_rows, fit.file_grid, fit.resampled) == (has, (rows, cols), False)
        table = tensors["pos_embed"]
        assert torch.equal(fitted["pos_embed"][:, wants:], table[:, has:])
        # Each token enters with its value plus its row, as before.
        names = [name for name in ("cls_token", "dist_token", "reg_token") if name in tensors]
        if not names:
            continue
        blank = torch.zeros(1, sum(tokens), 2)
        before, after = torch.cat([tensors[n] for n in names], 1), torch.cat([fitted[n] for n in names], 1)
        old, new = blank.clone(), blank.clone()
        old[:, :has], new[:, :wants] = table[:, :has], fitted["pos_embed"][:, :wants]
        torch.testing.assert_close(after + new, before + old)


@pytest.mark.parametrize("tokens", TOKENS, ids=str)
def test_a_square_table_of_another_size_is_resampled_without_its_prefix(tokens):
    for side, has, wants in itertools.product((4, 7, 14, 16, 37), prefixes(tokens), prefixes(tokens)):
        tensors = checkpoint(side, side, has, tokens)
        fitted, fit = fit_positions(tensors, wants + 30, (5, 6))
        assert (fit.file_rows, fit.file_grid, fit.model_grid) == (has, (side, side), (5, 6))
        expected = resample_positions(tensors["pos_embed"][:, has:], (side, side), (5, 6))
        assert torch.equal(fitted["pos_embed"][:, wants:], expected)


def test_a_table_that_neither_fits_nor_is_square_is_not_guessed():
    assert fit_positions({"pos_embed": torch.randn(1, 15, 4)}, length=16, grid=(4, 4)) is None


def test_a_grid_that_is_known_is_taken():
    tensors = checkpoint(2, 8, 1, (1, 0, 0))  # 16 patches: also 4 x 4
    fitted, fit = fit_positions(tensors, 1 + 9, (3, 3), (2, 8))
    assert (fit.file_rows, fit.file_grid) == (1, (2, 8))
    assert torch.equal(fitted["pos_embed"][:, 1:], resample_positions(tensors["pos_embed"][:, 1:], (2, 8), (3, 3)))


def test_a_grid_that_is_said_comes_before_one_that_fits_by_chance():
    tensors = checkpoint(13, 15, 1, (1, 0, 0))  # 196 rows: also 14 x 14 without the token
    _, fit = fit_positions(tensors, 1 + 196, (14, 14), trained_grid=(13, 15))
    assert (fit.file_rows, fit.file_grid) == (1, (13, 15))
    # Images of another shape than those of training say nothing of a table that fits, or is square, as it stands.
    for grid in ((14, 14), (5, 6)):
        _, fit = fit_positions(checkpoint(14, 14, 1, (1, 0, 0)), 1 + grid[0] * grid[1], grid, trained_grid=(7, 28))
        assert (fit.file_rows, fit.file_grid) == (1, (14, 14))
