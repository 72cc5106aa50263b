"""A number is written with its unit, its interval, and no digits that say nothing."""

import pytest
from tests.unit.verbs.made_results import result

from vitreg.analysis.intervals import wilson
from vitreg.results import EvalResult
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.verb import _intervals, _units, shown, summary


def outcome(**more):
    fields = {"headline": "top1", "controls": {}, "counts": {}, "protocol": {}}
    return Outcome(**{**fields, "metrics": {"top1": 71.5, "cosine": 0.25, "outlier_distance": 2.125}, **more})


def test_a_share_of_right_answers_has_wilsons_interval_of_its_count():
    low, high = _intervals(outcome(trials={"top1": 200}))["top1"]
    assert (low / 100, high / 100) == pytest.approx(wilson(143, 200))
    assert low < 71.5 < high
    assert _intervals(outcome()) == {}
    nothing = _intervals(outcome(metrics={"top1": 0.0}, trials={"top1": 20}))["top1"]
    assert nothing[0] == 0
    assert nothing[1] > 10  # of 20 misses


def test_units_follow_from_the_names_of_metrics_and_are_percent_otherwise():
    units = {"*distance": "patches", "cosine": ""}
    assert _units(outcome(units=units)) == {"top1": "%", "cosine": "", "outlier_distance": "patches"}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (71.53846153846153, "%", "71.5 %"),
        (0.0, "%", "0 %"),
        (100.0, "%", "100 %"),
        (0.034567, "", "0.0346"),
        (5524416.0, "", "5,524,416"),
        (1.2553, "GMACs", "1.26 GMACs"),
        (-12.345, "%", "-12.3 %"),
    ],
)
def test_numbers_have_the_digits_that_say_something(value, unit, text):
    assert shown(value, unit) == text


def test_the_terminal_shows_unit_and_interval():
    lines = summary(result(intervals={"top1": (64.87, 77.31)}, units={"top1": "%"})).splitlines()
    assert any(line.split() == ["top1", "71.5", "%", "(64.9", "to", "77.3", "%)", "<-"] for line in lines)
    assert any(line.split() == ["control:", "chance", "10", "%"] for line in lines)
    protocol = next(line for line in lines if line.startswith("protocol"))
    assert "threshold 29.19" in protocol


def test_a_record_of_before_still_opens():
    old = result().model_dump(mode="json", by_alias=True)
    del old["intervals"], old["units"]
    assert EvalResult.model_validate(old).intervals == {}
    assert "top1" in summary(EvalResult.model_validate(old))
