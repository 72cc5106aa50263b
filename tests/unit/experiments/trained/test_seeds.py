"""Differences over seeds: Student's interval against values from tables, and what is said of how many seeds."""

import pytest

from vitreg.experiments.experiment import Says
from vitreg.experiments.trained.seeds import Compared, over_seeds, paired, student, with_registers
from vitreg.records.reproduction import Measured, TrainedAs

SAYS = Says(id="a", says="b", criterion="c")


def model(value, seed=0, registers=0, recipe="dinov2", name="linear", **words):
    numbers = {} if value is None else {name: value}
    return Measured(
        subject=f"{recipe}-{registers}@{seed}", numbers=numbers, trained=TrainedAs(recipe=recipe, registers=registers, seed=seed), **words
    )  # fmt: skip


def judge(own, other, **words):
    return over_seeds(
        SAYS,
        "x",
        [model(v, s, 4) for s, v in enumerate(own)],
        [model(v, s) for s, v in enumerate(other)],
        Compared(name="linear", **words),
    )


def test_students_interval_is_that_of_the_tables():
    """t(0.975) is 12.706 with one degree of freedom, 4.303 with two, 2.776 with four."""
    assert student([1.0, 3.0]) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)
    assert student([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    low, high = student([1, 2, 3, 4, 5])
    assert (low, high) == pytest.approx((3 - 2.7764 * 0.7071, 3 + 2.7764 * 0.7071), abs=1e-3)
    with pytest.raises(ValueError, match="no interval"):
        student([1.0])


def test_from_one_seed_nothing_is_claimed_and_the_direction_is_shown():
    claim = judge([60.0], [50.0])
    assert (claim.outcome, claim.value, claim.low) == ("not testable here", 10.0, None)
    assert "One seed" in claim.reason
    assert "+10" in claim.reason


def test_the_whole_interval_decides():
    assert judge([60, 61, 62], [50, 51.2, 51.9]).outcome == "held"
    assert judge([50, 51.2, 51.9], [60, 61, 62]).outcome == "not held"
    wide = judge([60, 50, 70], [55, 56, 57])
    assert wide.outcome == "not testable here"
    assert "too wide" in wide.reason
    assert judge([60, 61, 62], [60, 61.1, 61.9], least=-1.0).outcome == "held"  # not worse by a point
    assert judge([60, 61, 62], [60, 61.1, 61.9], expected=5.0).outcome == "not held"  # no gain of five
    assert judge([0.2, 0.21, 0.2], [0.3, 0.31, 0.32], lower=True).outcome == "held"


def test_differences_are_between_equal_seeds():
    """Seeds move both sides by far more than registers do; pairs see the difference, unpaired samples would not."""
    claim = judge([10.1, 50.12, 90.11], [10.0, 50.0, 90.0])
    assert claim.outcome == "held"
    assert claim.value == pytest.approx(0.11)


def test_pairs_are_of_the_seeds_that_both_have():
    measured = [model(1.0, 0), model(2.0, 1), model(3.0, 1, 4), model(4.0, 2, 4), model(9.0, 1, 4, recipe="clip")]
    own, other = paired(measured, with_registers("dinov2", 4), with_registers("dinov2", 0))
    assert [each.numbers["linear"] for each in (*own, *other)] == [3.0, 2.0]


def test_what_failed_says_why():
    failed = [model(None, 0, 4, failed="the loss is not finite.")]
    claim = over_seeds(SAYS, "x", failed, [model(1.0)], Compared(name="linear"))
    assert (claim.outcome, claim.reason) == ("not testable here", "the loss is not finite.")
    assert over_seeds(SAYS, "x", [], [], Compared(name="linear")).reason == "It was not measured."
