import pytest
import torch

from vitreg.analysis import lint


def noise(*shape, std=1.0, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


# --- registers


def test_equal_registers_are_a_problem_that_says_how_many_are_left():
    row = noise(1, 16)
    (finding,) = lint.registers(row.expand(4, 16), "reg_token")
    assert (finding.level, finding.subject) == ("problem", "identical registers")
    assert "4 registers in reg_token hold only 1 different value." in finding.message
    pairs = torch.cat([row, -row, row, noise(1, 16, seed=1)])
    assert "hold only 3 different values" in lint.registers(pairs, "reg_token")[0].message


def test_zero_registers_are_both_equal_and_untrained():
    found = lint.registers(torch.zeros(4, 16), "reg_token")
    assert [(f.level, f.subject) for f in found] == [
        ("problem", "identical registers"),
        ("warning", "untrained registers"),
    ]
    assert "exactly zero" in found[1].message


def test_registers_at_initialisation_are_different_but_untrained():
    (finding,) = lint.registers(noise(4, 384, std=1e-6), "reg_token")
    assert (finding.level, finding.subject) == ("warning", "untrained registers")


@pytest.mark.parametrize("std", [0.02, 1.0, 30.0])
def test_trained_registers_are_fine(std):
    (finding,) = lint.registers(noise(4, 384, std=std), "reg_token")
    assert finding.level == "ok"


def test_one_register_cannot_be_identical():
    (finding,) = lint.registers(noise(1, 8), "reg_token")
    assert finding.level == "ok"


def test_registers_that_differ_by_training_and_not_by_rounding_are_different():
    base = noise(1, 64)
    (finding,) = lint.registers(base + noise(2, 64, std=1e-3, seed=1), "reg_token")
    assert finding.level == "ok"
    (finding,) = lint.registers(base + noise(2, 64, std=1e-9, seed=1), "reg_token")
    assert finding.level == "problem"


# --- position table


def test_a_planted_row_is_found_at_its_place_with_its_factor_and_channel():
    table = noise(35, 64, std=0.02)
    median = float(torch.linalg.vector_norm(table, dim=-1).median())
    table[2 * 7 + 4, 11] = 14.5 * median  # row 2, col 4 of 5 rows x 7 columns
    (found,) = lint.position_outliers(table, (5, 7))
    assert (found.row, found.col, found.channel) == (2, 4, 11)
    assert found.factor == pytest.approx(14.5, rel=0.02)
    assert found.share > 0.98
    finding = lint.positions(table, (5, 7), "pos_embed")
    assert finding.level == "warning"
    assert "(row 2, col 4) 14.5x the median norm, > 99 % of it in channel 11" in finding.message


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_have_no_row_that_stands_out(seed):
    assert lint.position_outliers(noise(196, 192, std=0.02, seed=seed), (14, 14)) == []


def test_a_sine_cosine_table_has_equal_norms_up_to_rounding_and_none_stands_out():
    angles = torch.arange(196)[:, None] / 10000 ** (torch.arange(48) / 48)
    table = torch.cat([angles.sin(), angles.cos()], 1)
    assert lint.position_outliers(table, (14, 14)) == []


def test_a_small_bump_is_a_note_and_spread_energy_names_no_channel():
    table = noise(49, 64, std=0.02)
    table[0] *= 1.6
    finding = lint.positions(table, (7, 7), "pos_embed")
    assert finding.level == "note"
    assert "channel" not in finding.message


def test_many_rows_are_counted_and_only_the_first_are_listed():
    table = noise(196, 64, std=0.02)
    table[:20] *= 5
    finding = lint.positions(table, (14, 14), "pos_embed", listed=3)
    assert finding.message.startswith("20 of 14x14 rows in pos_embed stand out")
    assert "and 17 more" in finding.message
    assert finding.message.count("(row ") == 3


def test_the_table_must_fit_the_grid():
    with pytest.raises(ValueError, match="a 14x14 grid holds 196 patches, not 197"):
        lint.position_outliers(noise(197, 8), (14, 14))


def test_an_all_zero_table_has_no_outliers():
    assert lint.position_outliers(torch.zeros(16, 8), (4, 4)) == []


# --- weight decay

TOKENS = [("cls_token", 3), ("reg_token", 3), ("pos_embed", 3)]


def test_weight_decay_names_what_the_list_forgets():
    finding = lint.weight_decay(TOKENS, {"pos_embed", "cls_token"}, "timm")
    assert finding.level == "warning"
    assert "does not name reg_token:" in finding.message
    assert lint.weight_decay(TOKENS, {"pos_embed", "cls_token", "reg_token"}, "timm").level == "ok"


def test_weight_decay_without_a_list_is_a_note_and_vectors_are_exempt():
    finding = lint.weight_decay([("class_embedding", 1), ("positional_embedding", 2)], None, "open_clip")
    assert finding.level == "note"
    assert "positional_embedding" in finding.message
    assert "class_embedding" not in finding.message
    assert lint.weight_decay([("class_embedding", 1)], None, "open_clip").level == "ok"
