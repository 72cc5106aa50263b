"""`auto` keeps the repair that helps within the damage allowed, or none, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.methods import auto
from vitreg.repair.methods.auto import NoneKeptError
from vitreg.repair.outliers import NothingToRepairError

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("position-locked", {"position-rows"}), pytest.param("high-norm", {"attention-bias"}, marks=pytest.mark.slow)],
)
def test_the_best_repair_for_a_kind_is_kept(
    monkeypatch: pytest.MonkeyPatch, kind: str, kept: set[str], photographs: list[Path]
) -> None:
    monkeypatch.setattr(auto, "TRIED", ("position-rows", "attention-bias"))
    record = fit_repair(planted.build(kind, 0)[0], photographs[-24:], "auto", max_damage=5.0).record
    assert record.method in kept
    assert record.held_out is not None
    assert record.held_out.share == 0
    tried = {each["method"]: each for each in record.details["auto"]}
    assert set(tried) == {"position-rows", "attention-bias"}
    other = (set(tried) - kept).pop()
    assert tried[other]["why"]  # the other cannot repair this kind, and says so
    assert "Chosen among 2 repairs" in record.notes[-1]


def test_none_is_kept_where_all_do_too_much_damage(monkeypatch: pytest.MonkeyPatch, photographs: list[Path]) -> None:
    monkeypatch.setattr(auto, "TRIED", ("position-rows", "substitute"))
    with pytest.raises(
        NoneKeptError, match=r"position-rows cannot be fitted.*substitute leaves 0 %.*were outliers before"
    ):
        fit_repair(planted.build("high-norm", 0)[0], photographs[-12:], "auto", max_damage=0)


def test_a_model_without_outliers_is_left_alone(photographs: list[Path]) -> None:
    with pytest.raises(NothingToRepairError):
        fit_repair(planted.clean(0), photographs[:8], "auto")
