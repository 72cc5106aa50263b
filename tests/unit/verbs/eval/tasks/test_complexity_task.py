"""The cost of registers in models of several libraries, counted twice."""

import math
from pathlib import Path

import pytest
import torch

from vitreg.backbones import Backbone, load
from vitreg.data.views.transforms import IMAGENET
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.complexity import Complexity


def bench(model, **settings):
    if isinstance(model, str):
        backbone = load(model, random=True, device="cpu", precision="fp32")
    else:
        backbone = Backbone(model.eval(), preprocess=IMAGENET.with_size(model.image_size))
    return Bench(backbone=backbone, data="", features=Path("/nowhere"), **settings)


def tiny(**changes):
    torch.manual_seed(0)
    return VisionTransformer(**{"image_size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2} | changes)


def columns(table):
    return {name: [row[i] for row in table.rows] for i, name in enumerate(table.columns)}


def test_vit_b16_shows_the_increase_of_appendix_b():
    outcome = Complexity().run(bench(tiny(image_size=224, patch=16, width=768, depth=12, heads=12)))
    assert outcome.headline == "percent_more_macs_4"
    assert round(outcome.metrics["percent_more_macs_4"], 2) == 2.10
    assert round(outcome.metrics["percent_more_macs_16"], 2) == 8.43
    assert round(outcome.metrics["gmacs"], 1) == 17.6
    assert outcome.metrics["percent_disagreement"] == 0
    cost = columns(outcome.tables[0])
    assert cost["registers"] == [0, 1, 2, 4, 8, 16]
    assert cost["GMACs"] == cost["GMACs counted"]


@pytest.mark.parametrize(
    "spec",
    ["timm:vit_tiny_patch16_224", "timm:deit_tiny_distilled_patch16_224", "openclip:ViT-S-32-alt", "timm:vit_small_patch16_dinov3"],
)  # fmt: skip
def test_the_closed_form_is_what_foreign_models_do(spec):
    closed, counted = Complexity(registers=(4,)).run(bench(spec)).tables[1].rows
    assert closed[2] == counted[2]


@pytest.mark.parametrize("changes", [{"registers": 3}, {"mlp": "swiglu", "layer_scale": 0.1}, {"pre_norm": True}])
def test_parameters_are_those_of_the_model_as_it_is(changes):
    closed, counted = Complexity().run(bench(tiny(**changes))).tables[1].rows
    assert closed == ["closed form", *counted[1:]]


def test_other_sizes_and_numbers_are_counted_without_four():
    outcome = Complexity(registers=(2,)).run(bench(tiny(), size=(48, 64)))
    cost = columns(outcome.tables[0])
    assert cost["tokens"] == [1 + 48, 1 + 48 + 2]
    assert outcome.headline == "percent_more_macs_2"


def test_stripes_of_small_crops_need_the_antialias():
    outcome = Complexity(local_size=98).run(bench(tiny(patch=14, image_size=224), size=(224, 224)))
    statistics, profiles = (columns(table) for table in outcome.tables[2:])
    assert statistics["std"] == pytest.approx([0.311, 0.304, 0.028, 0.022], abs=6e-4)
    assert statistics["mean"] == pytest.approx([(7 / 16) ** 2] * 4, abs=1e-4)
    assert profiles["0"] == pytest.approx([0.358, 0.341, 0.368, 0.361], abs=6e-4)
    assert outcome.metrics["gradient_spread_without_antialias"] > outcome.metrics["gradient_spread_with_antialias"]


def test_time_is_measured_when_asked():
    outcome = Complexity(registers=(0, 16), measure=True, rounds=2).run(bench(tiny(), batch_size=2))
    assert columns(outcome.tables[0])["% more time"][0] == 0
    assert math.isfinite(outcome.metrics["percent_more_time_16"])


def test_no_number_of_registers_is_refused():
    with pytest.raises(UserError, match="at least one number"):
        Complexity(registers=()).run(bench(tiny()))
