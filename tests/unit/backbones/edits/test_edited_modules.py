"""The module of an edited model makes the edits by itself: exported, compiled and trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.apart import apart
from tests.unit.backbones.edits.small_edits import Extra, Scale
from torch import Tensor, nn

from vitreg.backbones import Backbone, Edit
from vitreg.backbones.edits import Place
from vitreg.errors import UserError

HALVED = (
    [Edit("block", 1, Scale(0.5)), Edit("mlp", 0, Scale(2.0))],
    [Edit("attention", 1, Scale(0.5))],
    [Edit("weights", 1, lambda weights, _: weights.flip(-1))],
    [Edit("input", None, Extra(2))],
    [Edit("image", None, Scale(0.5))],
)


@pytest.mark.parametrize("edits", HALVED, ids=lambda edits: edits[0].site)
def test_the_module_of_an_edited_model_makes_the_edits_and_can_be_exported(vit, images, edits) -> None:
    vit.eval()
    edited = Backbone(vit).edited(edits, "edited")
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(output)

    handle = edited.module.get_submodule("norm").register_forward_hook(keep)
    with torch.no_grad():
        found = edited.module(images)
        handle.remove()
        torch.testing.assert_close(seen[0], edited(images).values)
        assert not torch.equal(found, vit(images))
        program = torch.export.export(edited.module, (images,))
        torch.testing.assert_close(program.module()(images), found)
    assert all(a is b for a, b in zip(edited.module.parameters(), vit.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_an_edited_model_compiles_as_one_graph(vit, images) -> None:
    def compiled() -> None:
        edited = Backbone(vit.eval()).edited([edit for edits in HALVED for edit in edits], "all")
        with torch.no_grad():
            wanted = edited.module(images)
            torch.testing.assert_close(torch.compile(edited.module, fullgraph=True, backend="eager")(images), wanted)
        assert torch.equal(edited.module(images), wanted)

    apart(compiled)


@dataclass(frozen=True)
class Uncompiled:
    """Doubles tokens in a way that no graph holds."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        torch._dynamo.graph_break()
        return 2 * tokens


def test_an_edited_model_that_does_not_compile_runs_with_its_edits(vit, images) -> None:
    def compiled() -> None:
        module = Backbone(vit.eval()).edited([Edit("block", 0, Uncompiled())], "doubled").module
        with torch.no_grad():
            wanted = module(images)
            assert not torch.equal(wanted, vit(images))
            torch.testing.assert_close(torch.compile(module, backend="eager")(images), wanted)

    apart(compiled)


def test_gradients_go_through_the_module_of_an_edited_model(vit, images) -> None:
    Backbone(vit).edited([Edit("attention", 1, Scale(0.5))], "edited").module(images).sum().backward()
    assert all(parameter.grad is not None for parameter in vit.blocks.parameters())


def test_an_edit_of_the_whole_call_is_no_part_of_a_module(vit) -> None:
    with pytest.raises(UserError, match="sees tokens"):
        _ = Backbone(vit).edited([Edit("forward", None, Scale(1.0))], "all").module


def test_an_edit_that_the_module_does_not_pass_is_refused(vit, images) -> None:
    """The last projection of an MLP is there and never called."""
    edited = Backbone(vit).edited([Edit("mlp", 1, Scale(0.5))], "halved")
    edited.module.get_submodule("blocks.1").mlp = nn.Identity()
    with pytest.raises(UserError, match="the mlp of block 1 was not seen"):
        edited.module(images)
