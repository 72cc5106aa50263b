"""The notebook that grows artifacts runs from top to bottom with runs of six steps, and shows what they did."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.report.shown.notebook_cells import DOCS, drawn, shown_by


@pytest.mark.slow
@pytest.mark.usefixtures("lab_of_six_steps", "few_resamples")
def test_the_notebook_trains_the_pair_and_shows_curves_maps_and_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report, runs, curves, maps, taken, alone, without, beside = shown_by(DOCS / "growing.ipynb")
    assert [(run.registers, run.steps, run.failed) for run in report.runs] == [(0, 6, ""), (4, 6, "")]
    assert runs["name"].tolist() == ["0 registers, seed 0", "4 registers, seed 0"]
    assert [axes.get_ylabel().split("\n")[:2] for axes in maps.axes if "step" in axes.get_ylabel()] == 2 * [
        ["first", "step 0"], ["largest", "step 3"], ["at the end", "step 6"],
    ]  # fmt: skip
    assert list(taken.index) == [
        ("0 registers, seed 0", "background"), ("4 registers, seed 0", "background"), ("4 registers, seed 0", "registers"),
    ]  # fmt: skip
    held = report.runs[1].registers_hold.attention
    assert len(alone) == 4
    assert alone["attention"].sum() == pytest.approx(held, abs=1e-3)
    assert taken.loc[("4 registers, seed 0", "registers"), "attention"] == held
    assert [each.model.tokens.get("registers", 0) for each in (without, beside)] == [0, 4]
    assert all(len(drawn(each)) > 500 for each in (report, runs, curves, maps, taken, alone, without, beside))
