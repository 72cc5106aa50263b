"""What is known of a planted model: its clean twin, whatever its kind, and how well a repair finds its writers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.unit.repair.methods.clean_twin import pictures

import vitreg
from vitreg.models import planted
from vitreg.repair.outliers import NothingToRepairError
from vitreg.repair.repair import Repair
from vitreg.repair.table.on_planted import Patient, clean_twin, patient

pytestmark = pytest.mark.usefixtures("planted_once")
KINDS = (*planted.KINDS, planted.TAKEN)


@pytest.fixture(scope="module")
def clipped_case(photographs: list[Path]) -> Iterator[tuple[Patient, Repair]]:
    """A patient, and a repair of it that edits no neurons; tests change what its record says."""
    with patient("high-norm", 0, photographs[:4]) as case:
        yield case, case.after("clip-norm").repair


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_clean_twin_with_its_tokens(kind: str, photographs: list[Path]) -> None:
    model = vitreg.load(f"planted:{kind}@1", precision="fp32")
    twin = clean_twin(model)
    assert twin is not None
    images = pictures(photographs[:2])
    assert twin.layouts((224, 224)) == model.layouts((224, 224))
    truth = planted.with_registers(1)[1] if kind == planted.TAKEN else planted.build(kind, 1)[1]
    like = F.cosine_similarity(model(images).patches, twin(images).patches, dim=-1)
    assert float(like[~truth.outliers(images)].quantile(0.05)) > 0.97


def test_the_twin_of_registers_that_carry_the_artifact_has_ordinary_ones() -> None:
    model = vitreg.load("planted:global-registers", precision="fp32")
    twin = clean_twin(model)
    assert twin is not None
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for backbone, least, most in ((model, 4.0, 20.0), (twin, 0.5, 2.0)):
        norms = backbone.trace(images, vitreg.Capture(norms="all")).norms(10)[0]
        layout = backbone.layout((224, 224))
        ratio = norms[list(layout.registers)] / layout.take(norms[None], -1).median()
        assert least < float(ratio.min()) <= float(ratio.max()) < most


@pytest.mark.parametrize("spec", ["planted:clean@1", "planted:high-norm@x", "timm:high-norm"])
def test_no_other_model_has_one(spec: str) -> None:
    backbone = vitreg.load(planted.clean(0))
    backbone.spec = spec
    assert clean_twin(backbone) is None


def test_a_model_whose_registers_carry_the_artifact_needs_no_repair(photographs: list[Path]) -> None:
    with patient(planted.TAKEN, 0, photographs[:8]) as case, pytest.raises(NothingToRepairError):
        case.after("test-time")


@pytest.mark.parametrize(
    ("units", "wanted"),
    [
        ({"3": [121, 226, 235, 262, 416, 438]}, (1.0, 1.0)),
        ({"3": [121, 226, 0]}, (2 / 3, 1 / 3)),
        ({"4": [121]}, (0.0, 0.0)),
        ({"2": "a trigger", "3": [121]}, (1.0, 1 / 6)),
        ({}, (0.0, 0.0)),
    ],
)
def test_precision_and_recall_are_those_of_the_planted_writers(
    units: dict[str, list[int] | str], wanted: tuple[float, float], clipped_case: tuple[Patient, Repair]
) -> None:
    case, clipped = clipped_case
    assert case.truth.neurons == {3: (121, 226, 235, 262, 416, 438)}
    found = {
        block: list(case.truth.triggers[2][:3]) if isinstance(each, str) else each for block, each in units.items()
    }
    assert case.neurons(clipped) is None
    edits_them = replace(clipped, record=clipped.record.model_copy(update={"details": {"neurons": found}}))
    assert case.neurons(edits_them) == pytest.approx(wanted)
