"""Optimisers go on from a checkpoint bit for bit, and its weights are published as a backbone."""

import json

import pytest
import torch
from torch import nn

from vitreg.backbones.loading.load import load
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.settings import OptimConfig
from vitreg.training import checkpoint
from vitreg.training.optim import build_optimizer
from vitreg.training.parallel import wrap

# Optimisers


def train(name, steps, resumed=None):
    """A few steps of a small network; returns its weights, its moments, and what a checkpoint of it holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    names, params = zip(*model.named_parameters(), strict=True)
    groups = [ParamGroup(names[:2], params[:2]), ParamGroup(names[2:], params[2:], module="head")]
    optimizer = build_optimizer(groups, OptimConfig(name=name))
    wrapped = wrap(model, "none", torch.device("cpu"), torch.float32)
    start = 0
    if resumed is not None:
        start = resumed.step
        wrapped.load(resumed.model)
        wrapped.load_optimizer(optimizer, groups, resumed.optimizer)
    for step in range(start, steps):
        for options in optimizer.param_groups:
            options["lr"] = 0.01
        draw = torch.Generator().manual_seed(step)
        model(torch.randn(8, 5, generator=draw)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped, optimizer, groups


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, name):
    wrapped, optimizer, groups = train(name, 3)
    checkpoint.save(tmp_path, wrapped.state(), wrapped.optimizer_state(optimizer, groups), {"step": 3}, 1)
    (straight, one, groups), (resumed, other, _) = train(name, 6), train(name, 6, checkpoint.load_newest(tmp_path))
    assert all(torch.equal(value, straight.state()[key]) for key, value in resumed.state().items())
    moments, again = straight.optimizer_state(one, groups), resumed.optimizer_state(other, groups)
    assert len(moments.tensors) == {"adamw": 6 * 3, "lamb": 6 * 2 + 2}[name]  # LAMB counts steps by group
    assert moments.tensors.keys() == again.tensors.keys()
    for key, value in moments.tensors.items():
        assert again.tensors[key].dtype == value.dtype
        assert torch.equal(again.tensors[key], value)


def test_weights_and_moments_of_another_recipe_are_a_users_mistake():
    wrapped, optimizer, groups = train("adamw", 1)
    state, moments = wrapped.state(), wrapped.optimizer_state(optimizer, groups)
    with pytest.raises(UserError, match=r"1 tensors do not fit, such as 0\.bias"):
        wrapped.load({key: value for key, value in state.items() if key != "0.bias"})
    with pytest.raises(UserError, match=r"0\.bias"):
        wrapped.load(state | {"0.bias": torch.zeros(9)})
    with pytest.raises(UserError, match=r"1\.weight, 1\.bias|1\.bias, 1\.weight"):
        wrapped.load_optimizer(optimizer, groups[:1], moments)


# Publishing


def test_a_published_backbone_is_loaded_by_scan(tmp_path):
    config = ModelConfig(width=32, depth=2, heads=2, image_size=32, registers=3, register_positions=True)
    torch.manual_seed(1)
    vit = VisionTransformer(**config.arguments()).eval()
    nn.init.normal_(vit.reg_pos)
    for _ in range(2):  # a later one takes its place
        checkpoint.publish(
            tmp_path, vit.published_state(), {"model": config.published_arguments(), "train": {"optim": {"lr": 0.1}}}
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vitreg.json", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["train"] == {"optim": {"lr": 0.1}}
    images = torch.randn(2, 3, 32, 32)
    again = load(f"run:{tmp_path}", device="cpu", precision="fp32").module
    torch.testing.assert_close(again.forward_features(images), vit.forward_features(images))
    with pytest.raises(ValueError, match="model"):
        checkpoint.publish(tmp_path, vit.published_state(), {})
