"""An anatomy made by hand follows a copy of its model: other weights run, and the model that it was made for stays as it is."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.anatomy.parts import Anatomy
from vitreg.backbones.reweighted import reweighted
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Strange(nn.Module):
    """A class that nobody knows, around a ViT."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = VisionTransformer(32, 8, 24, 2, 3)
        self.scale = 2.0

    def tokens(self, images: Tensor) -> Tensor:
        return self.inner(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(self.scale * images)


def _run(module: Strange, images: Tensor) -> Tensor:
    return find_anatomy(module.inner).encode(images)


HELD: list[Strange] = []


def by_hand(kind: str) -> tuple[Strange, Anatomy]:
    """Describe the model by functions that hold it in a closure, a partial, a method, a default, or nowhere."""
    module = Strange().eval()
    HELD[:] = [module]
    inner = find_anatomy(module.inner)

    def closure(images: Tensor) -> Tensor:
        return _run(module, images)

    def default(images: Tensor, held: Strange = module) -> Tensor:
        return _run(held, images)

    encodes: dict[str, Any] = {
        "closure": closure, "partial": functools.partial(_run, module), "default": default,
        "known": inner.encode, "global": lambda images: _run(HELD[0], images),
    }  # fmt: skip
    return module, replace(inner, tower=module, encode=encodes[kind], library="own")


@pytest.mark.parametrize("kind", ["closure", "partial", "default", "known"])
def test_other_weights_run_and_the_model_stays_as_it_is(kind: str) -> None:
    module, anatomy = by_hand(kind)
    backbone = Backbone(module, anatomy)
    name = "inner.blocks.1.mlp.fc2.weight"
    before = backbone(IMAGES).values
    changed = reweighted(backbone, {name: 2 * module.get_parameter(name).detach()}, "twice")
    found = changed(IMAGES).values
    assert torch.equal(backbone(IMAGES).values, before)
    wanted = Strange().eval()
    with torch.no_grad():
        wanted.get_parameter(name).mul_(2)
    assert torch.equal(found, find_anatomy(wanted.inner).encode(IMAGES))
    assert not torch.equal(found, before)
    assert changed.anatomy.blocks[0] is changed.module.get_submodule("inner.blocks.0")
    assert changed.anatomy.blocks[0] is not module.inner.blocks[0]
    assert changed.weights_sha256 != backbone.weights_sha256


def test_functions_that_reach_the_old_model_by_a_global_name_are_refused() -> None:
    module, anatomy = by_hand("global")
    weight = module.inner.blocks[0].mlp.fc2.weight
    with pytest.raises(UserError, match="reach the model by a global name"):
        reweighted(Backbone(module, anatomy), {"inner.blocks.0.mlp.fc2.weight": weight.detach()}, "same")
