"""`auto` tries what the outliers make plausible, keeps what helps within the damage allowed, or none, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

import vitreg
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair, subject_of
from vitreg.repair.methods import auto
from vitreg.repair.methods.auto import NoneKeptError, left_out, plausible, sits_still
from vitreg.repair.outliers import NothingToRepairError, Outliers
from vitreg.repair.record import OutliersRecord
from vitreg.repair.settings import METHODS, FitOptions

pytestmark = pytest.mark.usefixtures("planted_once")


def outliers(side: str) -> Outliers:
    record = OutliersRecord(side=side, onset=3, peak=3, thresholds={3: 2.0}, share=0.02, ratio=4.0)  # type: ignore[arg-type]
    return Outliers(record, (1.0,) * 6)


@pytest.mark.parametrize("side", ["high", "low"])
@pytest.mark.parametrize("locked", [True, False, None])
@pytest.mark.parametrize("train", [True, False])
def test_every_repair_is_tried_or_said_not_to_be(side: str, locked: bool | None, train: bool) -> None:
    tried = plausible(outliers(side), locked=locked, train=train)
    skipped = [each.partition(" (")[0] for each in left_out(tried, locked=locked, train=train)]
    assert sorted({each.partition(":")[0] for each in tried} | {*skipped}) == sorted(METHODS)
    assert not {each.partition(":")[0] for each in tried} & {*skipped}
    assert ("test-time" in tried) == (locked is not True)
    assert ("position-rows" in tried) == (locked is not False)
    assert ("substitute:detector=lof" in tried) == (side == "low" and locked is not True)
    assert ("singular" in tried) == train


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("position-locked", "position-rows"), pytest.param("high-norm", "attention-bias", marks=pytest.mark.slow)],
)
def test_the_best_repair_for_a_kind_is_kept(
    monkeypatch: pytest.MonkeyPatch, kind: str, kept: str, photographs: list[Path]
) -> None:
    """Substitute leaves no outlier of any kind where they appear; in the output alone it leaves all of them."""
    own = plausible
    monkeypatch.setattr(
        auto,
        "plausible",
        lambda *given, **words: [
            each.replace("substitute", "substitute:where=output") for each in own(*given, **words)
        ],
    )
    record = fit_repair(planted.build(kind, 0)[0], photographs[-24:], "auto", max_damage=5.0).record
    assert record.method == kept
    assert record.held_out is not None
    assert record.held_out.share == 0
    assert {each["method"] for each in record.details["auto"]} <= {
        "position-rows",
        "test-time",
        "attention-bias",
        "substitute:where=output",
    }
    assert "repairs on" in record.notes[-2]
    assert record.notes[-1].startswith("Not tried: ")
    assert "clip-norm (it is a control" in record.notes[-1]


def test_two_outliers_cannot_tell_whether_they_sit_at_fixed_places(photographs: list[Path]) -> None:
    with subject_of(vitreg.load("planted:high-norm"), photographs[:12], FitOptions()) as few:
        assert sits_still(few) is None
    with subject_of(vitreg.load("planted:high-norm"), photographs, FitOptions()) as many:
        assert sits_still(many) is False


def test_none_is_kept_where_all_do_too_much_damage(monkeypatch: pytest.MonkeyPatch, photographs: list[Path]) -> None:
    monkeypatch.setattr(auto, "plausible", lambda *_given, **_words: ["position-rows", "substitute:where=onset"])
    sentence = r"position-rows cannot be fitted.*leaves 0 %.*were outliers before\. Not tried: test-time"
    with pytest.raises(NoneKeptError, match=sentence):
        fit_repair(planted.build("high-norm", 0)[0], photographs[-12:], "auto", max_damage=0)


def test_a_model_without_outliers_is_left_alone(photographs: list[Path]) -> None:
    with pytest.raises(NothingToRepairError):
        fit_repair(planted.clean(0), photographs[:8], "auto")
