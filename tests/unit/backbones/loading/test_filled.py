"""A model that a file fills is built without its random initial values, and has them where the file lacks a tensor."""

import pytest
import torch
from torch import nn

from vitreg.backbones.loading.filled import built


def tiny():
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, reg_tokens=2, num_classes=3
    )


def filled(state):
    def create():
        model = tiny()
        model.load_state_dict(state, strict=False)
        return model

    return create


def test_a_filled_model_holds_the_values_of_its_file():
    state = tiny().state_dict()
    model = built(filled(state), filled=True)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_tensor_that_the_file_lacks_has_its_initial_values():
    state = tiny().state_dict()
    del state["blocks.1.mlp.fc1.weight"]
    torch.manual_seed(3)
    expected = filled(state)().state_dict()
    torch.manual_seed(3)
    found = built(filled(state), filled=True).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_random_weights_are_those_of_the_library():
    torch.manual_seed(3)
    expected = tiny().state_dict()
    torch.manual_seed(3)
    found = built(tiny, filled=False).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_nothing_is_drawn_for_a_file_that_holds_everything():
    layer = nn.Linear(3, 2)

    def create():
        made = nn.Linear(3, 2)
        nn.init.normal_(made.weight, std=0.02)
        made.weight.data = made.weight.data  # a view of the same memory changes nothing
        made.load_state_dict(layer.state_dict())
        return made

    before = torch.get_rng_state()
    assert torch.equal(built(create, filled=True).weight, layer.weight)
    assert torch.equal(torch.get_rng_state(), before)
