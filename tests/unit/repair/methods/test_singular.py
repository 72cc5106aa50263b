"""Singular: only singular values change, outliers are drawn to their neighbours, and too much damage is undone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vitreg.backbones.edits import Edit
from vitreg.errors import UserError
from vitreg.repair.methods.singular import METHOD, targets
from vitreg.repair.methods.test_time import DropTokens
from vitreg.repair.repair import load_repair
from vitreg.repair.settings import SingularSettings
from vitreg.repair.table.on_planted import Outcome, Patient, patient

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def low(photographs: list[Path]) -> Iterator[Patient]:
    with patient("low-norm", 0, photographs[4:12]) as found:
        yield found


@pytest.fixture(scope="module")
def after(low: Patient) -> Outcome:
    return low.after("singular", blocks=1, rate=0.2, steps=12, direction="measured")


def test_targets_are_those_of_the_naive_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(2, 12, 5, generator=draw, dtype=torch.float64)
    direction = torch.randn(5, generator=draw, dtype=torch.float64)
    marked = torch.rand(2, 12, generator=draw) < 0.3
    marked[1] = torch.tensor(
        [row < 2 and col < 2 for row in range(3) for col in range(4)]
    )  # patch 0 has no neighbour left
    found, possible = targets(patches, marked, direction, (3, 4))
    for image in range(2):
        for row in range(3):
            for col in range(4):
                total, weight = torch.zeros(5, dtype=torch.float64), 0.0
                for r in range(max(0, row - 1), min(3, row + 2)):
                    for c in range(max(0, col - 1), min(4, col + 2)):
                        x = patches[image, r * 4 + c]
                        if not marked[image, r * 4 + c]:
                            own = math.exp(-abs(float(F.cosine_similarity(x, direction, dim=0))) / 0.1)
                            own *= math.exp(-((r - row) ** 2 + (c - col) ** 2) / 2)
                            total, weight = total + own * x, weight + own
                assert bool(possible[image, row * 4 + col]) == (weight > 0)
                if weight:
                    torch.testing.assert_close(found[image, row * 4 + col], total / weight)
    assert not possible[1, 0]


@pytest.mark.slow
def test_planted_outliers_become_ordinary(after: Outcome) -> None:
    assert after.effect.before > 0.002
    assert after.effect.worst_share == 0
    assert after.normal >= 0.99
    assert after.outliers >= 0.9 > after.before
    assert after.repair.record.details["angles"]["weights"] <= 10
    assert after.repair.record.details["losses"][-1] < after.repair.record.details["losses"][0]


@pytest.mark.slow
def test_only_singular_values_change(low: Patient, after: Outcome) -> None:
    tower, block = low.subject.backbone.anatomy.tower, low.subject.outliers.onset
    own = dict(tower.named_parameters())
    expected = {f"blocks.{block}.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert set(after.repair.tensors) == expected
    for name, new in after.repair.tensors.items():
        old = own[name].detach()
        if "qkv" in name:
            assert torch.equal(new[: 2 * 192], old[: 2 * 192])  # queries and keys
            old, new = old[2 * 192 :], new[2 * 192 :]
        left, values, right = torch.linalg.svd(old, full_matrices=False)
        within = left.T @ new @ right.T
        assert float((within - torch.diag(within.diag())).norm() / new.norm()) < 1e-4
        assert within.diag().min() > -1e-4 * values[0]
    assert not torch.equal(
        after.repair.tensors[f"blocks.{block}.mlp.fc2.weight"], own[f"blocks.{block}.mlp.fc2.weight"]
    )


@pytest.mark.slow
def test_the_model_given_is_as_before_and_the_repair_is_read_again(
    tmp_path: Path, low: Patient, after: Outcome
) -> None:
    pixels = next(iter(low.subject.batches("held_out")))
    base = low.subject.backbone
    assert not any(parameter.grad is not None for parameter in base.anatomy.tower.parameters())
    fixed = after.repair.apply(base)(pixels).values
    assert torch.equal(load_repair(after.repair.save(tmp_path / "fixed")).apply(base)(pixels).values, fixed)
    assert not torch.equal(base(pixels).values, fixed)


@pytest.mark.slow
def test_what_does_too_much_damage_is_undone(low: Patient) -> None:
    after = low.after("singular", blocks=10, rate=5.0, steps=4, direction="measured")
    assert after.effect.share == after.effect.before
    assert after.normal == pytest.approx(low.unrepaired[0], abs=1e-4)
    assert "as they were" in after.repair.record.notes[0]


def test_an_edited_model_is_refused(low: Patient) -> None:
    edited = low.subject.with_backbone(low.subject.backbone.edited([Edit("block", -1, DropTokens(0))], "other"))
    with pytest.raises(UserError, match="repair the weights first"):
        METHOD.fit(edited, SingularSettings())
