"""What trainings cost, against published hours, counted FLOPs and files on disk; and how it is said."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitreg.experiments.known import EXPERIMENTS
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.plan import lines
from vitreg.experiments.trained.cost import architecture, cost_of, flops_per_image
from vitreg.experiments.trained.model import COUNTS, Trained
from vitreg.experiments.trained.scales import PROTOCOLS, config_of

DINOV2 = Trained(recipe="dinov2", registers=0)


def test_the_papers_dinov2_costs_about_its_published_hours():
    """96 GPUs for 3.3 days, 625 000 steps of 3072 images."""
    found = cost_of([DINOV2], "paper", "")
    assert found.images == 625_000 * 3072
    assert found.hours == pytest.approx(96 * 3.3 * 24, rel=0.3)


def test_equal_models_are_counted_once_and_more_registers_cost_more():
    once = cost_of([DINOV2], "paper", "")
    assert cost_of([DINOV2, DINOV2], "paper", "") == once
    assert cost_of([DINOV2, DINOV2.with_seed(1)], "paper", "").flops == 2 * once.flops
    each = [cost_of([replace(DINOV2, registers=count)], "paper", "").flops for count in COUNTS]
    assert all(less < more for less, more in pairwise(each))


def test_longer_is_in_proportion():
    once, longer = (cost_of([DINOV2], "smoke", "synthetic:scenes@1:2000", times) for times in (1, 6))
    assert longer.images == 6 * once.images
    assert config_of(DINOV2, "smoke", "x", 6).run.duration == f"{6 * 260} steps"


@pytest.mark.parametrize("recipe", ["deit3", "clip"])
def test_flops_are_those_that_pytorch_counts(recipe):
    """One image, forward and backward; heads, and the gradient of pixels that nobody asks for, are little."""
    config = config_of(Trained(recipe=recipe, registers=4), "smoke", "x")
    module = config.recipe.build(config.model, 8)
    images = torch.zeros(1, 3, config.model.image_size, config.model.image_size)
    with FlopCounterMode(display=False) as counter:
        if recipe == "clip":
            tokens = torch.zeros(1, config.recipe.context, dtype=torch.long)
            (module.encode_image(images).sum() + module.encode_text(tokens).sum()).backward()
        else:
            module.backbone()(images).sum().backward()
    assert flops_per_image(recipe, config) == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("scale", PROTOCOLS)
def test_the_parameters_are_those_of_the_network(scale):
    config = config_of(Trained(recipe="dinov2", registers=4), scale, "x")
    with torch.device("meta"):
        network = config.recipe.build(config.model, 0).backbone()
    counted = sum(weight.numel() for weight in network.parameters()) - network.width  # the mask token is of training
    assert architecture(config.model).parameters(4) == counted


def test_smoke_and_lab_keep_within_their_time():
    """Twelve models of ninety seconds each on one core, and two; an hour of a GPU with time left for probes."""
    for scale, hours in (("smoke", 12 * 90 / 3600), ("lab", 0.8)):
        models = {
            model
            for id, each in EXPERIMENTS.items()
            for model in each.trains(scale)
            if id != "future" or scale == "lab"
        }
        assert cost_of(models, scale, ReproduceOptions(scale=scale).data["train"]).hours <= hours * 1.1


def test_what_is_needed_and_not_given_is_named():
    held = ReproduceOptions(scale="paper", classes="imagenet:/data")
    found = {line.split()[0]: line for line in lines(list(EXPERIMENTS.values()), held, named=False)}
    assert "(not given: --captions)" in found["table2b"]
    assert "(not given: --images, --masks, --depths, --train)" in found["fig8"]
    assert "Needs no data." in found["fig12"]
    assert "dinov2-reg16" in found["fig8"]
    assert "17 models" in found["In"]
    assert "ImageNet-22k" in found["The"]
    small = "\n".join(lines([EXPERIMENTS["fig8"]], ReproduceOptions(seeds=3), named=True))
    assert "not given" not in small
    assert "18 models" in small
    assert "3 seeds each" in small


def test_with_models_of_the_user_little_is_trained():
    held = ReproduceOptions(models=("planted:clean",))
    found = [line.split()[0] for line in lines(list(EXPERIMENTS.values()), held, named=False)]
    assert "fig3" in found
    assert "fig8" not in found
    assert "In" not in found
