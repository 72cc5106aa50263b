"""How the effect of one factor differs between levels of another, on values that are drawn here, against an independent computation."""

import ast
import functools

import numpy as np
import pytest
from scipy import stats

from vitreg.experiments.lab.reading import design_of
from vitreg.experiments.lab.statistics.effects import effects_of
from vitreg.records.lab import DesignRun

CROSSED = {"seeds": 6, "block": [{"factors": {"registers": [0, 4], "gate": [True]}}]}


@functools.cache
def _design(blocks, seeds):
    found = design_of({"seeds": seeds, "block": ast.literal_eval(blocks)}, "mine", "mine.toml")
    assert found.runs
    return found


def table(logs, data=CROSSED, solved=3000):
    """The table of runs whose largest norms are given by their logarithms: [registers, gate, seed]."""
    design = _design(str(data["block"]), data["seeds"])
    numbers = {key: number for number, key in enumerate(design.cells)}
    runs = [
        DesignRun(
            name=run.name, registers=run.registers, seed=run.seed, cell=numbers[run.cell.key], outcome="none", steps=4000, error=0.001,
            solved=solved, peak_ratio=float(np.exp(logs[int(run.registers > 0), int(run.config.model.gate), run.seed])),
        )
        for run in design.runs
    ]  # fmt: skip
    return effects_of(design, numbers, runs, 250)


def interaction(effects):
    (row,) = [each for each in effects if each.interaction]
    return row


def drawn(seed, between=0.0, seeds=6):
    """Logs in which a gate changes norms by -1 without registers, and by that and `between` with them."""
    draw = np.random.default_rng(seed)
    means = np.array([[3.0, 2.0], [1.0, 0.0 + between]])
    return means[:, :, None] + draw.normal(0, [[[0.1], [0.4]], [[0.2], [0.3]]], (2, 2, seeds))


def test_the_row_is_the_difference_of_differences_with_welchs_interval():
    """By the definition, and by the t distribution of SciPy; not by the code that the table uses."""
    logs = drawn(1, between=2.0)
    row = interaction(table(logs))
    assert (row.factor, row.level, row.where) == ("gate", "on", "with 4 registers against 0")
    value = (logs[1, 1].mean() - logs[1, 0].mean()) - (logs[0, 1].mean() - logs[0, 0].mean())
    parts = [cell.var(ddof=1) / 6 for cell in logs.reshape(4, 6)]
    df = sum(parts) ** 2 / sum(part**2 / 5 for part in parts)
    interval = stats.t.interval(0.95, df, loc=value, scale=np.sqrt(sum(parts)))
    found = row.measures["ratio"]
    assert (np.log(found.value), np.log(found.low), np.log(found.high)) == pytest.approx((value, *interval))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / np.sqrt(sum(parts)), df))
    assert found.exact is None
    assert found.runs == (12, 12)


def test_of_equal_spreads_it_is_the_interaction_of_a_two_way_analysis_of_variance():
    """With residuals of the same size in every cell, F of the interaction is t squared, at the same degrees of freedom."""
    residual = np.array([-1.0, 1.0, -0.5, 0.5, -0.2, 0.2])
    logs = np.array([[3.0, 2.0], [1.0, 0.7]])[:, :, None] + residual
    cells = logs.mean(2)
    both = cells - cells.mean(0) - cells.mean(1, keepdims=True) + cells.mean()
    f = 6 * (both**2).sum() / (4 * (residual**2).sum() / 20)
    assert interaction(table(logs)).measures["ratio"].p == pytest.approx(stats.f.sf(f, 1, 20))


def test_a_planted_interaction_is_decided_and_none_where_there_is_none():
    assert interaction(table(drawn(2, between=3.0))).measures["ratio"].decided
    wrong = sum(interaction(table(drawn(seed))).measures["ratio"].p < 0.05 for seed in range(40))
    assert wrong <= 6  # 2 are expected, and 6 are exceeded by chance in 1 of 200 suites


def test_holm_counts_all_rows_of_a_measure():
    effects = table(drawn(3, between=0.6))
    measures = [each.measures["ratio"] for each in effects]
    assert len(measures) == 7  # two effects at two levels and on average each, and the interaction
    known = sorted(each.p for each in measures)
    least = max(min(1.0, (7 - rank) * p) for rank, p in enumerate(known))
    assert max(each.adjusted for each in measures) == pytest.approx(least)


def test_norms_of_runs_that_did_not_solve_the_task_decide_no_interaction():
    found = interaction(table(drawn(2, between=3.0), solved=None)).measures["ratio"]
    assert found.adjusted < 0.001
    assert (found.decided, found.censored) == (False, 24)


def test_over_a_third_factor_it_is_averaged():
    data = {"seeds": 2, "block": [{"factors": {"registers": [0, 4], "gate": [True], "cls_token": [True]}}]}
    logs = drawn(4, between=1.0, seeds=2)
    rows = [each for each in table(logs, data) if each.interaction]
    assert [(each.factor, each.where) for each in rows] == [
        ("gate", "with 4 registers against 0"), ("cls_token", "with 4 registers against 0"), ("gate", "with cls_token on against off"),
    ]  # fmt: skip
    cells = logs.mean(2)
    value = (cells[1, 1] - cells[1, 0]) - (cells[0, 1] - cells[0, 0])
    assert [np.log(each.measures["ratio"].value) for each in rows] == pytest.approx([value, 0.0, 0.0], abs=1e-9)
