"""Registers that start equal stay equal, bit for bit, and others don't."""

from vitreg.experiments.critics import identical
from vitreg.experiments.critics.equal_start import trained_for
from vitreg.records.reproduction import Measured


def test_equal_registers_stay_equal_while_they_move_and_others_move_apart():
    equal, apart = (trained_for(3, equal=each) for each in (True, False))
    assert equal["at_first"] == equal["largest_difference"] == 0
    assert equal["largest_step"] > 1e-3
    assert apart["at_first"] > 0
    assert apart["largest_difference"] != apart["at_first"]


def test_a_run_is_its_seed():
    assert trained_for(2, equal=False, seed=3) == trained_for(2, equal=False, seed=3)
    assert trained_for(2, equal=False, seed=3) != trained_for(2, equal=False, seed=4)


def test_registers_that_do_not_move_show_nothing():
    still = {"at_first": 0.0, "largest_difference": 0.0, "largest_step": 0.0}
    moved = still | {"largest_step": 0.01}
    drifted = moved | {"largest_difference": 1e-9}
    found = identical.claims([Measured(subject="a", numbers=each) for each in (still, moved, drifted)])
    assert [each.outcome for each in found] == ["not testable here", "held", "not held"]
