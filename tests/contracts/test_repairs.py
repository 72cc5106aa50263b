"""Every repair keeps every promise of `check_repair`, on the planted ViT and on its weights in other libraries' shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from planted_shapes import SHAPES, same
from tests.apart import apart
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.repair import Repair
from vitreg.repair.settings import METHODS
from vitreg.testing import check_repair

pytestmark = pytest.mark.usefixtures("planted_once")
PREPARED = IMAGENET.with_size((112, 112))  # small, and the same for every library

# method -> the kind of planted outliers that it is expected to help, and settings that make its fit short.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "test-time": ("high-norm", {"neurons": 4}),
    "attention-bias": ("high-norm", {"neurons": 4}),
    "substitute": ("high-norm", {}),
    "clip-norm": ("high-norm", {}),
    "mask-keys": ("high-norm", {}),
    "prefix": ("high-norm", {"tokens": 1}),
    "position-rows": ("position-locked", {}),
    "denoise": ("position-locked", {"shifts": 3}),
    "border": ("position-locked", {"epochs": 1}),
    "distill": ("position-locked", {"epochs": 1, "registers": 2, "shifts": 3}),
    "singular": ("low-norm", {"blocks": 1, "rate": 0.2, "steps": 8}),
}
# method -> checks that do not apply to it: averaging views is an edit of the whole call, which a plain module cannot be.
EXEMPT: dict[str, set[str]] = {"denoise": {"module", "untouched module", "compiled"}}
QUICK = {"test-time", "position-rows"}
"""An edit of neurons, one of tokens, and a change of weights; the others run with the slow tests."""
IN_OTHER_SHAPES = [name for name in ("test-time", "attention-bias") if name in METHODS]


@pytest.fixture(scope="module")
def images(photographs: list[Path]) -> Tensor:
    return torch.stack([PREPARED(Image.open(path).convert("RGB")) for path in photographs[9:11]])


def planted_model(name: str) -> tuple[nn.Module, planted.Truth]:
    return planted.build(CASES[name][0], 0, image_size=112)


def fitted(name: str, photographs: list[Path], model: nn.Module | None = None) -> tuple[Backbone, Repair]:
    backbone = Backbone(planted_model(name)[0] if model is None else model, preprocess=PREPARED)
    return backbone, fit_repair(backbone, photographs[-24:], name, **CASES[name][1])


def test_every_method_has_a_case() -> None:
    assert set(METHODS) == set(CASES)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_keeps_every_promise(name: str, photographs: list[Path], images: Tensor) -> None:
    backbone, repair = fitted(name, photographs)
    assert planted_model(name)[1].outliers(images).any(1).all()
    report = check_repair(repair, backbone, images)
    assert {check for check, said in report.items() if said != "held"} <= EXEMPT.get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_repaired_module_can_be_compiled(name: str, photographs: list[Path], images: Tensor) -> None:
    backbone, repair = fitted(name, photographs)
    report = check_repair(repair, backbone, images, compile=True)
    assert report["compiled"] == "held" or "compiled" in EXEMPT.get(name, set())


@pytest.mark.parametrize("name", ["test-time", "substitute"])
def test_a_repaired_module_is_one_graph(name: str, photographs: list[Path], images: Tensor) -> None:
    def compiled() -> None:
        backbone, repair = fitted(name, photographs)
        module = repair.apply(backbone).module
        with torch.no_grad():
            assert same(torch.compile(module, fullgraph=True, backend="eager")(images), module(images))

    apart(compiled)


@pytest.mark.parametrize(
    "name", [name if name == "test-time" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_repair_keeps_every_promise_at_another_size(name: str, photographs: list[Path]) -> None:
    backbone, repair = fitted(name, photographs)
    assert repair.record.size == (112, 112)
    larger = PREPARED.with_size((144, 128))
    images = torch.stack([larger(Image.open(path).convert("RGB")) for path in photographs[9:11]])
    before, fixed = backbone(images), repair.apply(backbone)(images)
    assert fixed.layout.grid == before.layout.grid == (9, 8)
    report = check_repair(repair, backbone, images)
    assert {check for check, said in report.items() if said != "held"} <= EXEMPT.get(name, set())


@pytest.fixture(scope="module")
def ours(photographs: list[Path], images: Tensor) -> dict[str, tuple[Repair, Tensor]]:
    """Repairs of the planted ViT, and its repaired tokens."""
    found = {}
    for name in IN_OTHER_SHAPES:
        backbone, repair = fitted(name, photographs)
        found[name] = repair, repair.apply(backbone)(images).values
    return found


@pytest.mark.parametrize(
    "shape", [shape if shape == "timm" else pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES]
)
@pytest.mark.parametrize(
    "name", [name if name == "test-time" else pytest.param(name, marks=pytest.mark.slow) for name in IN_OTHER_SHAPES]
)
def test_the_same_weights_in_another_library_get_the_same_repair(
    name: str, shape: str, photographs: list[Path], images: Tensor, ours: dict[str, tuple[Repair, Tensor]]
) -> None:
    model, truth = planted_model(name)
    backbone, repair = fitted(name, photographs, SHAPES[shape](model))
    wanted, tokens = ours[name]
    assert same(backbone(images).values, Backbone(model)(images).values)
    assert repair.record.details["neurons"] == wanted.record.details["neurons"]
    assert {int(block): {*units} for block, units in repair.record.details["neurons"].items()} == {
        block: {*units} for block, units in truth.neurons.items()
    }
    assert same(repair.apply(backbone)(images).values, tokens)
    report = check_repair(repair, backbone, images)
    assert {said for said in report.values() if said != "held"} <= {"what the module returns are not its tokens"}
