"""Durations of a run in steps."""

from dataclasses import replace

import pytest

from vitreg.errors import UserError
from vitreg.presets import preset
from vitreg.training.plan import plan


def config(**run):
    base = preset("deit3-smoke")
    return replace(base, run=replace(base.run, **run), optim=replace(base.optim, warmup="10%"))


def test_every_duration_is_converted_once():
    found = plan(config(duration="10 epochs", batch=100, save_every="1 epoch", evaluate_every="50%"), 1050)
    assert (found.total, found.epoch_steps, found.warmup) == (100, 10, 10)
    assert (found.save_every, found.evaluate_every) == (10, 50)


def test_official_epochs_have_their_own_length():
    found = plan(config(duration="2 epochs", batch=100), 1050, official_epoch=1250)
    assert (found.total, found.epoch_steps) == (2500, 1250)


def test_a_set_smaller_than_a_batch_has_epochs_of_a_step():
    assert plan(config(duration="3 epochs", batch=100), 40).total == 3


@pytest.mark.parametrize("text", ["0 steps", "10%", "soon", "-3 epochs"])
def test_a_run_of_nothing_is_refused(text):
    with pytest.raises(UserError):
        plan(config(duration=text), 1000)


def test_a_run_that_is_nothing_but_warm_up_is_refused():
    base = config(duration="10 steps")
    with pytest.raises(UserError, match="warmup"):
        plan(replace(base, optim=replace(base.optim, warmup="5 epochs")), 1000)
