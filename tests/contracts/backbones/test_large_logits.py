"""Models as they are after training, with logits of 500 and tokens of 100 times the norm: attention is right in both
precisions, or it is the precision that is blamed, and left, not the model."""

from __future__ import annotations

import copy

import pytest
import torch
from large_logits import KINDS, sharpened
from tiny_models import build

from vitreg.backbones import load
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.loading import sources
from vitreg.backbones.trace import Capture
from vitreg.errors import UserError
from vitreg.records import PrecisionChoice
from vitreg.testing import check_backbone
from vitreg.verbs.doctor import doctor

FUSED = ["vitreg", "timm dinov2 reg", "hf dinov2 registers", "open_clip", "torchvision"]
BY_HAND = ["hub dino", "hub dinov2 reg", "hf vit eager"]
bf16 = torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUSED)
def test_every_promise_is_kept_with_logits_of_500_in_both_precisions(name, kind):
    model = sharpened(build(name), 500, kind)
    for dtype in (torch.float32, bf16):
        backbone = Backbone(copy.deepcopy(model).to(dtype))
        assert backbone.attention_status().readable
        assert backbone.attention_status().error < 1e-2
        report = check_backbone(backbone)
        assert {check: said for check, said in report.items() if said != "held"} == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vitreg", "timm dinov2 reg", "hf dinov2 registers"])
def test_features_in_bf16_are_as_near_to_fp32_as_the_librarys_own(name, kind):
    """The same module under its library's kernel is the measure: what bf16 rounds in layers and weights is not ours."""
    model = sharpened(build(name), 200, kind)
    images = torch.randn(2, 3, *Backbone(model).anatomy.native_size, generator=torch.Generator().manual_seed(3))
    half = Backbone(copy.deepcopy(model).to(bf16))
    truth = Backbone(model)(images).values
    with torch.no_grad():
        theirs = half.anatomy.encode(images.to(bf16))
    ours = half(images).values
    error, measure = (float((x.float() - truth).norm() / truth.norm()) for x in (ours, theirs))
    assert error <= 1.5 * measure + 1e-3


@pytest.mark.parametrize("name", BY_HAND)
def test_where_bf16_is_the_cause_the_precision_is_blamed_not_the_model(name):
    model = sharpened(build(name), 200, "near the peak")
    assert Backbone(model).attention_status().readable
    backbone = Backbone(copy.deepcopy(model).to(bf16))
    status = backbone.attention_status()
    assert status.rounding
    assert not status.readable
    assert status.error > 0.05
    assert "the precision is the cause, not the model; run it with --precision fp32" in status.reason
    with pytest.raises(UserError, match="run it with precision fp32"):
        backbone.trace(torch.randn(1, 3, 64, 64), Capture(rows={0: [0]}))
    finding = next(each for each in doctor(backbone) if each.subject == "attention")
    assert finding.level == "warning"
    assert "--precision fp32" in finding.message + finding.remedy


def test_auto_leaves_bf16_by_itself_where_attention_is_wrong_in_it_and_says_so(monkeypatch):
    chosen = PrecisionChoice(chosen="bf16", why="bf16 is fast here.", fp32_ms=3.0, bf16_ms=1.0)

    def choose(precision, _device):
        return (torch.float32, None) if precision == "fp32" else (bf16, chosen if precision == "auto" else None)

    monkeypatch.setitem(load.__globals__, "choose_precision", choose)
    wrong, right = sharpened(build("hub dino"), 200, "near the peak"), build("hub dino")
    built = {"wrong": wrong, "right": right}
    monkeypatch.setitem(
        load.__globals__["_LIBRARIES"],
        "timm",
        lambda name, _pretrained: sources.Built(copy.deepcopy(built[name]), None),
    )
    backbone = load("timm:wrong", device="cpu")
    assert backbone.dtype == torch.float32
    assert backbone.attention_status().readable
    assert torch.equal(next(backbone.module.parameters()), next(wrong.parameters()))  # not what bf16 left of them
    assert backbone.precision_choice is not None
    assert (backbone.precision_choice.chosen, backbone.precision_choice.bf16_ms) == ("fp32", 1.0)
    assert "bf16 is fast here, but the attention of this Dino is off by" in backbone.precision_choice.sentence
    assert load("timm:right", device="cpu").dtype == bf16
    assert load("timm:wrong", device="cpu", precision="bf16").dtype == bf16  # who names it gets it


def test_the_check_runs_at_the_size_the_model_is_made_for_too():
    """A position that only the whole grid has makes the logits large: 2 x 3 patches would not show it."""
    model = build("hub dino")
    sizes = []
    model.patch_embed.register_forward_pre_hook(lambda _m, args: sizes.append(tuple(args[0].shape[-2:])))
    assert Backbone(model).attention_status().readable
    assert sizes == [(32, 48), (64, 64)]


def test_a_wrong_reading_is_still_the_models_in_bf16(monkeypatch):
    """In fp32 it is as wrong: then the precision is not blamed."""
    from vitreg.backbones.trace import QKV

    real = QKV.mixed
    monkeypatch.setattr(QKV, "mixed", lambda self: 2 * real(self))
    status = Backbone(build("vitreg").to(bf16)).attention_status()
    assert not status.readable
    assert not status.rounding
    assert "--precision" not in status.reason
