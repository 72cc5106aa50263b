"""Every family's own state dict goes back into it value for value, whatever its names mean elsewhere."""

import pytest
import torch
from tiny_models import FAMILIES, build

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.weights.into_module import load_state


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_takes_its_own_weights_back_unchanged(name):
    anatomy = find_anatomy(build(name, seed=1))
    other = find_anatomy(build(name, seed=2))
    state = {key: value.clone() for key, value in anatomy.tower.state_dict().items() if torch.is_tensor(value)}
    grid = (other.native_size[0] // other.patch[0], other.native_size[1] // other.patch[1])
    report = load_state(other.tower, state, "its own file", grid=grid, strict=True)
    assert not report.missing
    loaded = other.tower.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
