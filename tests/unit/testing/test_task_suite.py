"""Our tasks keep what `check_task` asks, and tasks with a planted fault are caught."""

import dataclasses
import itertools
from dataclasses import dataclass

import pytest
import torch

from vitreg.backbones import load
from vitreg.passes.bench import Bench
from vitreg.testing import check_task
from vitreg.verbs.eval.settings.task import TaskSettings
from vitreg.verbs.eval.task import Outcome
from vitreg.verbs.eval.tasks.causal import Causal
from vitreg.verbs.eval.tasks.complexity import Complexity
from vitreg.verbs.eval.tasks.knn import Knn
from vitreg.verbs.eval.tasks.position import Position


@pytest.fixture(scope="module")
def backbone():
    return load("planted:clean", device="cpu", image_size=64)


@pytest.fixture
def bench(backbone, tmp_path, voc):
    return Bench(backbone=backbone, data="", features=tmp_path, workers=0, limit=6)


@pytest.fixture(scope="module")
def classes(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("classes")
    for number, path in enumerate(photographs[:12]):
        place = folder / ("train" if number % 3 else "val") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize(
    "task", [Knn(k=(1, 3)), Position(calibration=8), Complexity(registers=(0, 4)), Causal()], ids=repr
)
def test_ours_pass(task, bench, classes):
    data = "" if isinstance(task, Complexity) else str(classes)
    check_task(task, dataclasses.replace(bench, data=data))


GOOD = {"headline": "a", "metrics": {"a": 1.0}, "controls": {"b": 0.0}, "counts": {"test": 3}, "protocol": {}}


@dataclass(frozen=True, kw_only=True)
class Faulty(TaskSettings):
    changed: tuple[tuple[str, object], ...] = ()
    moving: bool = False
    writing: bool = False

    def run(self, bench):
        given = GOOD | dict(self.changed)
        if self.moving:
            given["metrics"] = {"a": float(next(COUNTER))}
        if self.writing:
            with torch.no_grad():
                next(bench.backbone.module.parameters()).add_(1e-3)
        return Outcome(**given)


@dataclass(frozen=True, kw_only=True)
class Misworded(Faulty):
    measured = "It is {valeu}"


COUNTER = itertools.count()


@pytest.mark.parametrize(
    ("task", "promise"),
    [
        (Faulty(changed=(("headline", "c"),)), "the headline 'c' is none of a"),
        (Faulty(changed=(("metrics", {"a": float("inf")}),)), "a is infinite"),
        (Faulty(changed=(("controls", {}),)), "a number without a control"),
        (Faulty(changed=(("counts", {"test": 0}),)), "0 images of the test side"),
        (Misworded(), "`measured` names valeu"),
        (Faulty(moving=True), "the second time"),
        (Faulty(writing=True), "changed the weights"),
    ],
)
def test_a_planted_fault_is_caught(task, promise, bench):
    with pytest.raises(AssertionError, match=promise):
        check_task(task, bench)


def test_what_is_well_passes(bench):
    assert check_task(Faulty(), bench).metrics == {"a": 1.0}
