"""Attention bias: keys are those of the test-time register, neurons are silent, and outliers are gone without a token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clean_twin import pictures, restored
from timm.models.beit import Beit
from torch import nn

import vitreg
from vitreg.backbones import QKV, Backbone, Capture
from vitreg.backbones.edits import Place
from vitreg.backbones.probing import AttentionStatus
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair, subject_of
from vitreg.repair.methods import test_time
from vitreg.repair.methods.attention_bias import AddKeys, SilenceNeurons, keys_of_registers
from vitreg.repair.repair import Repair
from vitreg.repair.settings import FitOptions
from vitreg.tokens import TokenLayout

pytestmark = pytest.mark.usefixtures("planted_once")
PLACE = Place(layer=0, layout=TokenLayout.prefixed((2, 2), cls_tokens=1))


def test_attention_is_the_naive_loop_over_tokens_and_added_keys() -> None:
    draw = torch.Generator().manual_seed(0)
    images, heads, length, extra, d = 2, 3, 5, 2, 4
    q, k, v = (torch.randn(images, heads, length, d, generator=draw, dtype=torch.float64) for _ in range(3))
    own_k, own_v = (torch.randn(heads, extra, d, generator=draw, dtype=torch.float64) for _ in range(2))
    found = AddKeys(own_k, own_v)(QKV(q, k, v, d**-0.5), PLACE).attend()
    for image in range(images):
        for head in range(heads):
            keys = [*k[image, head], *own_k[head]]
            values = [*v[image, head], *own_v[head]]
            for token in range(length):
                logits = [float(q[image, head, token] @ key) * d**-0.5 for key in keys]
                weights = torch.tensor(logits, dtype=torch.float64).exp()
                wanted = sum(w * value for w, value in zip(weights / weights.sum(), values, strict=True))
                torch.testing.assert_close(found[image, head, token], wanted, atol=1e-12, rtol=0)


def test_neurons_are_silent_on_all_tokens_and_the_input_stays() -> None:
    hidden = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    silent = SilenceNeurons(torch.tensor([4, 1]))(hidden, PLACE)
    assert silent[..., [1, 4]].abs().max() == 0
    assert torch.equal(silent[..., [0, 2, 3, 5, 6]], hidden[..., [0, 2, 3, 5, 6]])
    assert hidden[..., [1, 4]].abs().min() > 0
    silent.sum().backward()


@pytest.fixture(scope="module")
def repaired(photographs: list[Path]) -> tuple[nn.Module, planted.Truth, Repair]:
    model, truth = planted.build("high-norm", 0)
    return model, truth, fit_repair(model, photographs[:16], "attention-bias", neurons=6)


@pytest.mark.slow
def test_outliers_are_gone_and_tokens_restored(
    repaired: tuple[nn.Module, planted.Truth, Repair], photographs: list[Path]
) -> None:
    model, truth, repair = repaired
    assert {int(block): {*units} for block, units in repair.record.details["neurons"].items()} == {
        block: {*units} for block, units in truth.neurons.items()
    }
    effect = repair.record.held_out
    assert effect is not None
    assert effect.before > 0.002
    assert effect.worst_share == 0
    images = pictures(photographs[16:24])
    backbone = Backbone(model)
    fixed = repair.apply(backbone)
    assert fixed.layouts((224, 224)) == backbone.layouts((224, 224))
    found, before = restored(fixed, truth, 0, images), restored(backbone, truth, 0, images)
    assert found.normal >= 0.99
    assert found.outliers >= 0.9 > before.outliers


def test_keys_are_the_mean_of_the_register_over_the_images_fitted_on(photographs: list[Path]) -> None:
    model, truth = planted.build("high-norm", 0)
    ((block, units),) = truth.neurons.items()
    found = test_time.fitted([(block, unit) for unit in units], torch.zeros(2, 192))
    with subject_of(vitreg.load(model), photographs[:8], FitOptions()) as subject:
        moved = test_time.repaired(subject.backbone, found)
        keys = keys_of_registers(moved, subject, 2)
        assert sorted(keys) == list(range(12))
        images = torch.cat(list(subject.batches()))
    assert len(images) == 3
    trace = moved.trace(images, Capture(qkv="all"))
    for layer in (0, block + 1, 11):
        for found_now, seen in zip(keys[layer], (trace.qkv(layer).k, trace.qkv(layer).v), strict=True):
            wanted = torch.stack([seen[:, head, 1:3].mean(0) for head in range(3)])
            torch.testing.assert_close(found_now, wanted, atol=1e-5, rtol=1e-5)


def beit_of(model: nn.Module) -> nn.Module:
    """The same model as timm's BEiT, which takes no other tokens than its own."""
    size = {"embed_dim": 192, "num_heads": 3, "depth": 12, "num_classes": 0, "global_pool": "token"}
    beit = Beit(**size, init_values=None, use_abs_pos_emb=True, use_rel_pos_bias=True)
    state = dict(model.state_dict())
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 192), state["pos_embed"]], 1)
    for block in range(12):
        assert not state.pop(f"blocks.{block}.attn.qkv.bias").any()
    missing, unexpected = beit.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("relative_position" in name or name.endswith(("q_bias", "v_bias")) for name in missing)
    return beit.eval()


@pytest.mark.slow
def test_a_model_that_takes_no_token_gets_the_keys_of_its_outliers(photographs: list[Path]) -> None:
    model, truth = planted.build("high-norm", 0)
    beit = beit_of(model)
    with pytest.raises(UserError, match="use attention-bias"):
        fit_repair(beit, photographs[:12])
    with pytest.raises(UserError, match="one mean key"):
        fit_repair(beit, photographs[:12], "attention-bias", registers=2)
    repair = fit_repair(beit, photographs[6:24], "attention-bias")
    ((block, units),) = truth.neurons.items()
    assert {int(at): {*found} for at, found in repair.record.details["neurons"].items()} == {block: {*units}}
    assert repair.record.held_out is not None
    assert repair.record.held_out.worst_share == 0
    assert "mean ones of its outliers" in repair.record.notes[0]
    assert f"k.{block}" not in repair.tensors
    images = pictures(photographs[24:30])
    found = restored(repair.apply(Backbone(beit)), truth, 0, images)
    assert found.normal >= 0.99
    assert found.outliers >= 0.9

    with subject_of(vitreg.load(beit), photographs[6:24], FitOptions()) as subject:
        images = torch.cat(list(subject.batches()))
    outliers, qkv = truth.outliers(images), Backbone(beit).trace(images, Capture(qkv=[11])).qkv(11)
    for head in range(3):
        wanted = qkv.v[:, head, 1:][outliers].mean(0)
        torch.testing.assert_close(repair.tensors["v.11"][head, 0], wanted, atol=1e-5, rtol=1e-4)


def test_attention_that_cannot_be_written_is_refused(photographs: list[Path]) -> None:
    backbone = vitreg.load(planted.build("high-norm", 0)[0])
    backbone._status = AttentionStatus("none", 0.0, "it is hidden in a kernel.")
    with pytest.raises(UserError, match=r"hidden in a kernel.*; test-time needs no attention"):
        fit_repair(backbone, photographs[:8], "attention-bias")


@pytest.mark.slow
def test_neurons_chosen_by_lot_repair_nothing(photographs: list[Path]) -> None:
    model, truth = planted.build("high-norm", 0)
    found = fit_repair(model, photographs[:12], "attention-bias", neurons=6, control=True).record
    assert not {unit for units in found.details["neurons"].values() for unit in units} & {*truth.neurons[3]}
    assert found.held_out is not None
    assert found.held_out.share == found.held_out.before > 0
