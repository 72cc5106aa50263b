"""Differences over seeds: Student's interval against values from tables, and what is said of how many seeds."""

import pytest

from vitreg.experiments.experiment import Says
from vitreg.experiments.trained.seeds import Compared, outliers_gone, over_seeds, paired, student, with_registers
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


@pytest.mark.parametrize("seeds", [1, 2])
def test_from_one_seed_or_two_nothing_is_claimed_and_the_direction_is_shown(seeds):
    claim = judge([60.0, 61.0][:seeds], [50.0, 51.0][:seeds])
    assert (claim.outcome, claim.value, claim.low) == ("not testable here", 10.0, None)
    assert "from fewer than 3 nothing is claimed" in claim.reason
    assert "+10" in claim.reason


def test_the_whole_interval_decides():
    assert judge([60, 61, 62], [50, 51.2, 51.9]).outcome == "held"
    assert judge([50, 51.2, 51.9], [60, 61, 62]).outcome == "not held"
    wide = judge([60, 50, 70], [55, 56, 57])
    assert wide.outcome == "not testable here"
    assert "Too few seeds: the interval" in wide.reason
    assert judge([60, 61, 62], [60, 61.1, 61.9], least=-1.0).outcome == "held"  # not worse by a point
    assert judge([60, 61, 62], [60, 61.1, 61.9]).outcome == "not testable here"
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


DEPTH = Compared(name="depth", unit="m", lower=True, least=-0.02, controls="depth control: ")
GAIN = Compared(name="depth", unit="m", lower=True, controls="depth control: ", either=True)


def depths(values, registers, control=1.477):
    """Models of three seeds whose probe is to be compared with the mean depth map."""
    found = [model(value, seed, registers, name="depth") for seed, value in enumerate(values)]
    return [
        each.model_copy(
            update={"numbers": {**each.numbers, "depth control: mean depth map": control, "depth control: mean": 1.93}}
        )
        for each in found
    ]


def test_a_probe_that_is_no_better_than_its_control_can_lose_nothing():
    """The smoke scale's depth: 1.92 m against 1.477 m of the mean depth map."""
    blind = over_seeds(SAYS, "x", depths([1.92, 1.93, 1.91], 4), depths([1.92, 1.93, 1.92], 0), DEPTH)
    assert blind.outcome == "not testable here"
    assert "control: 1.48 m, mean depth map" in blind.reason
    assert "not shown to beat its control" in blind.reason
    knows = over_seeds(SAYS, "x", depths([1.0, 1.01, 1.0], 4), depths([1.0, 1.01, 1.0], 0), DEPTH)
    assert knows.outcome == "held"
    assert "control: 1.48 m" in knows.reason
    lost = over_seeds(SAYS, "x", depths([1.92, 1.93, 1.91], 4), depths([1.0, 1.01, 1.0], 0), DEPTH)
    assert lost.outcome == "not held"  # it knew something, and lost it
    won = over_seeds(SAYS, "x", depths([1.0, 1.01, 1.0], 4), depths([1.92, 1.93, 1.91], 0), GAIN)
    assert won.outcome == "held"  # one of the two is enough for a gain
    bare = [model(1.0, seed, name="depth") for seed in range(3)]
    assert over_seeds(SAYS, "x", bare, bare, DEPTH).outcome == "not testable here"


def having(share, seed, registers=0, sees=0.001):
    """A model of which a scan found a share of outliers, in percent, or none."""
    numbers = {"outliers": float(share > 0), "undecided": 0.0, "outlier_percent": share, "sees_mild": sees}
    held = TrainedAs(recipe="dinov2", registers=registers, seed=seed)
    return Measured(subject=f"{registers}@{seed}", numbers=numbers, trained=held)


def removed(own, other, sees=0.001):
    return outliers_gone(
        SAYS,
        "x",
        [having(v, s, 4, sees) for s, v in enumerate(own)],
        [having(v, s, 0, sees) for s, v in enumerate(other)],
    ).outcome


def test_removed_means_that_almost_none_is_left():
    assert removed([4.61, 4.6, 4.62], [5.01, 5.0, 5.02]) == "not held"  # it falls, for certain, and is there
    assert removed([0.0, 0.0, 0.0], [5.01, 5.0, 5.02]) == "held"
    assert removed([0.1, 0.12, 0.11], [5.01, 5.0, 5.02]) == "held"  # a fiftieth
    assert removed([0.0, 0.0, 1.4], [5.0, 5.0, 5.0]) == "not testable here"  # the interval holds a tenth
    assert removed([0.0, 0.0, 0.0], [5.0, 5.0, 5.0], sees=0.02) == "not testable here"  # a tenth could not be seen
    assert removed([0.0, 0.0], [5.0, 5.0]) == "not testable here"
    assert removed([0.0, 0.0, 0.0], [5.0, 5.0, 0.0]) == "not testable here"  # not "not held" for the one seed without
    assert removed([0.0, 0.0, 0.0, 0.0], [5.0, 5.1, 0.0, 5.2]) == "held"  # three have some
    assert removed([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == "not held"  # nothing to remove
    assert removed([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], sees=None) == "not testable here"
