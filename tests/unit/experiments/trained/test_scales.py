"""What each scale trains: twelve small models and two for the future work, and the paper's on the meta device."""

from dataclasses import replace

import pytest
import torch

from vitreg.config import encode
from vitreg.errors import UserError
from vitreg.experiments.known import EXPERIMENTS
from vitreg.experiments.trained.model import COUNTS, PAIRS, Trained
from vitreg.experiments.trained.scales import PROTOCOLS, config_of, sized
from vitreg.presets import preset
from vitreg.verbs.train.checks import check_settings

SCALES = tuple(PROTOCOLS)


def models(scale, *but):
    return list(
        dict.fromkeys(model for id, each in EXPERIMENTS.items() if id not in but for model in each.trains(scale))
    )


def test_smoke_trains_twelve_models_for_the_figures_and_tables():
    assert len(models("smoke", "future")) == 12
    assert len(models("smoke")) == 14


def test_equal_models_are_one_and_others_have_names_of_their_own():
    wanted = {Trained(recipe="dinov2", registers=count) for count in COUNTS} | set(PAIRS)
    assert wanted <= set(models("smoke"))
    found = models("paper")
    assert len({model.name for model in found}) == len(found)
    assert PAIRS[0].with_seed(3).name == "trained:dinov2-reg0@3"


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_is_one_that_train_takes(scale):
    for model in models(scale):
        config = config_of(model, scale, "synthetic:scenes@1:2000")
        if not torch.cuda.is_available():
            config = replace(config, run=replace(config.run, device="cpu", compile=False))
        check_settings(config)
        assert (config.model.registers, config.run.seed) == (model.registers, 0)


def test_the_papers_models_are_its_presets_and_build_on_the_meta_device():
    for model in models("paper"):
        config = config_of(model, "paper", "somewhere/")
        if not (model.size or model.slots or model.decorrelation):
            own = replace(preset(f"{PROTOCOLS['paper'].presets[model.recipe]}-reg{model.registers}"), data=config.data)
            assert encode(config) == encode(own)
        with torch.device("meta"):
            recipe = config.recipe.build(config.model, 1000 if config.recipe.needs == "label" else 0)
        assert recipe.backbone().num_registers == model.registers
        assert len(recipe.backbone().blocks) == (
            config.model.depth or {"T": 12, "S": 12, "B": 12, "L": 24, "H": 32, "g": 40}[config.model.size]
        )


def test_sizes_rise_and_an_unknown_one_names_those_there_are():
    for scale in SCALES:
        widths = [config_of(model, scale, "x").model.arguments()["width"] for model in sized(scale)]
        assert widths == sorted(widths)
    with pytest.raises(UserError, match="it has small, large"):
        config_of(Trained(recipe="deit3", registers=0, size="g"), "smoke", "x")
