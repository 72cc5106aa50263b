"""The lab with runs that take seconds."""

import pytest

from vitreg.experiments.lab import design
from vitreg.training.settings import changed


@pytest.fixture
def lab_of_six_steps(monkeypatch):
    """Runs of six steps, looked at three times. The other processes get the configurations of this one."""
    whole = design.config_of
    run = {
        "duration": "6 steps", "evaluate_every": "3 steps", "watch_every": "3 steps", "watch_images": 8, "batch": 4,
        "until": None, "log_every": 1,
    }  # fmt: skip
    small = {"data": {"limit_val": 8}, "optim": {"warmup": "2 steps"}, "run": run}
    monkeypatch.setattr(design, "config_of", lambda *given: changed(whole(*given), small))
