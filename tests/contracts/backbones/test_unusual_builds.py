"""Models of unusual build keep every promise, and what they show is where it was planted."""

from __future__ import annotations

import pytest
import torch

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.edits import Edit
from vitreg.backbones.trace import Capture
from vitreg.errors import UserError
from vitreg.testing import check_backbone
from vitreg.testing.toys import TOYS, DropsTokens, RegistersBetween, TokenMixer

APPLIES_NOT = {
    RegistersBetween: set(),
    DropsTokens: {"added tokens"},
    TokenMixer: {"attention", "output projection", "write attention", "write weights", "added keys"},
}


@pytest.mark.parametrize("toy", TOYS)
def test_every_build_keeps_every_promise(toy):
    report = check_backbone(_backbone(toy))
    assert {check for check, reason in report.items() if reason != "held"} == APPLIES_NOT[toy]


def _backbone(toy):
    model = toy()
    return Backbone(model, model.anatomy())


def test_dropped_patches_are_gone_after_the_block_that_drops_them():
    backbone = _backbone(DropsTokens)
    before, *after = backbone.layouts((32, 32))
    assert [layout.length for layout in after] == [17, 12, 12]
    assert after[1].present.tolist() == [patch % 3 != 1 for patch in range(16)]
    trace = backbone.trace(torch.randn(2, 3, 32, 32), Capture(hidden="all", rows={2: [11]}))
    assert trace.layout_before(1) == before
    assert trace.layout_before(2) == trace.layout_after(1) == after[1]
    assert trace.attention(2, [11]).shape[-1] == 12
    assert trace.final.patch_map.isnan().all(1)[0].flatten().tolist() == [patch % 3 == 1 for patch in range(16)]
    with pytest.raises(UserError, match="no token 12 to query in a sequence of 12"):
        backbone.trace(torch.randn(1, 3, 32, 32), Capture(rows={2: [12]}))


def test_an_edit_after_the_dropping_block_goes_on_with_what_is_left():
    backbone = _backbone(DropsTokens)
    halved = backbone.edited([Edit("block", 1, lambda x, place: x * (0.5 + 0 * place.layout.length))], "halved")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(
        halved.trace(images, Capture(hidden=[1])).hidden(1), backbone.trace(images, Capture(hidden=[1])).hidden(1) * 0.5
    )


def test_a_model_without_attention_says_so():
    backbone = _backbone(TokenMixer)
    for wanted in (Capture(qkv=[0]), Capture(rows=("all", [0])), Capture(projected=[0])):
        with pytest.raises(UserError, match="TokenMixer has no attention"):
            backbone.trace(torch.randn(1, 3, 32, 32), wanted)
    assert not backbone.attention_status().readable
