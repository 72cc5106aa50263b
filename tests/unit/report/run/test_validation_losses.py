"""Losses of the validation side are no percentages, and the smallest is the best."""

from vitreg.records import Curve
from vitreg.report.run import over_steps
from vitreg.report.run.page import _unit


def test_of_losses_the_smallest_is_best():
    values = [0.9, None, 0.2, 0.2, 0.5]
    steps = [10, 20, 30, 40, 50]
    assert over_steps.best(Curve(name="val_loss", steps=steps, values=values)) == (30, 0.2)
    assert over_steps.best(Curve(name="knn", steps=steps, values=values)) == (10, 0.9)
    assert _unit("val_loss") == ""
    assert "%" in _unit("knn")
