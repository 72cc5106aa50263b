"""`check_repair` catches repairs with a planted fault, and passes one without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from vitreg import plugins
from vitreg.backbones import Backbone
from vitreg.backbones.edits import Edit, Place
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.repair.fitting import fit_repair
from vitreg.repair.method import Fitted, Method
from vitreg.repair.record import Base, RepairRecord
from vitreg.repair.repair import Repair, weights_hash
from vitreg.repair.settings import MethodSettings
from vitreg.testing import check_repair


@dataclass(frozen=True)
class Clip:
    """Tokens longer than the median of their image become as long as that."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        norms = tokens.norm(dim=-1, keepdim=True)
        return tokens * (norms.median(1, keepdim=True).values / norms).clamp(max=1)


@dataclass(frozen=True)
class Nothing:
    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        return tokens.clone()


@dataclass(frozen=True)
class OfTheBatch:
    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        return tokens - tokens.mean((0, 1))


@dataclass(frozen=True)
class ByLot:
    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        return tokens + torch.rand(tokens.shape[-1], generator=ODDS).to(tokens)


@dataclass(frozen=True)
class Detached:
    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        return 2 * tokens.detach()


@dataclass(frozen=True)
class InDouble:
    """Right in float32, and lost in bfloat16."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        slope = torch.linspace(-1, 1, tokens.shape[-1]).to(tokens)
        return tokens + tokens.norm(dim=-1, keepdim=True) * slope * (1 if tokens.dtype == torch.float32 else -1)


@dataclass(frozen=True)
class Shifted:
    """The tokens of the images before: what one run leaves behind changes the next."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        SEEN.append(float(tokens.sum()))
        return tokens * (1 + 0.1 * len(SEEN))


ODDS, SEEN = torch.Generator().manual_seed(0), []


def unnamed() -> Callable[[Tensor, Place], Tensor]:
    return lambda tokens, place: tokens * torch.linspace(0, 1, tokens.shape[1]).to(tokens)[:, None]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(VisionTransformer(32, 8, 24, 3, 3, token_init=1.0))


@pytest.fixture
def repair(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Repair]:
    """Return what a plug-in of one edit fitted."""
    monkeypatch.setitem(plugins._added, "repair", {})

    def made(function: Any) -> Repair:
        edits = [Edit("block", 1, function)]
        plugins.plugin("repair", "faulty")(Method("faulty", MethodSettings, lambda *_: Fitted(), lambda _: edits))
        base = Base(spec="", weights_sha256=weights_hash(backbone), library="vitreg", blocks=3, width=24)
        record = RepairRecord(
            method="faulty", settings={}, base=base, size=(32, 32), images=0, seconds=0, outliers=None
        )
        return Repair(record)

    return made


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_sound_one_passes(backbone: Backbone, repair: Callable[[Any], Repair]) -> None:
    assert {*check_repair(repair(Clip()), backbone, IMAGES).values()} == {"held"}


@pytest.mark.parametrize(
    ("faulty", "promise"),
    [
        (Nothing(), "changes no token"),
        (OfTheBatch(), "other tokens than alone"),
        (ByLot(), "other tokens than alone|other bits"),
        (Shifted(), "other tokens than alone|other bits"),
        (Detached(), "no gradient|does not require grad"),
        (InDouble(), "bfloat16 moves"),
        (unnamed(), "no identity"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_planted_fault_is_caught(
    backbone: Backbone, repair: Callable[[Any], Repair], faulty: Any, promise: str
) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=promise):
        check_repair(repair(faulty), backbone, IMAGES)


def test_a_repair_that_writes_into_the_models_weights_is_caught(
    backbone: Backbone, repair: Callable[[Any], Repair]
) -> None:
    weight = backbone.module.get_submodule("blocks.2.mlp.fc1").bias

    @dataclass(frozen=True)
    class Writes:
        def __call__(self, tokens: Tensor, place: Place) -> Tensor:
            with torch.no_grad():
                weight.add_(0.1)
            return 2 * tokens

    with pytest.raises(AssertionError, match=r"the repair changed blocks"):
        check_repair(repair(Writes()), backbone, IMAGES)


def test_what_a_plug_in_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins._added, "repair", {})

    def fails(*_given: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    plugins.plugin("repair", "broken")(Method("broken", MethodSettings, fails, needs_outliers=False))
    plugins.plugin("repair", "late")(Method("late", MethodSettings, lambda *_: Fitted(), fails))
    model = VisionTransformer(32, 8, 24, 3, 3)
    with pytest.raises(UserError, match=r"the repair 'broken' of .* failed: ZeroDivisionError: division by zero"):
        fit_repair(model, torch.randn(8, 3, 32, 32), "broken")
    with pytest.raises(UserError, match=r"the repair 'late' of .* failed: ZeroDivisionError"):
        fit_repair(model, torch.randn(8, 3, 32, 32), "late", force=True).apply(model)
