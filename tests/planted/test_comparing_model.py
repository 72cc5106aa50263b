"""The planted model whose outliers depend on the other patches: an emptier patch takes the place of those there were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.unit.repair.methods.clean_twin import pictures
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.models import planted

pytestmark = pytest.mark.usefixtures("planted_once")


@pytest.fixture(scope="module")
def images(photographs: list[Path]) -> Tensor:
    return pictures(photographs[:4])


@torch.no_grad()
def norms(model: planted.VisionTransformer, images: Tensor) -> Tensor:
    """Of the patches after every block, in multiples of the median."""
    tokens, found = model.embed(images), []
    for block in model.blocks:
        tokens = block(tokens)
        found.append(tokens[:, 1:].norm(dim=-1))
    every = torch.stack(found)
    return every / every.median(dim=-1, keepdim=True).values


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_every_image_has_outliers_and_they_stay(seed: int, images: Tensor) -> None:
    model, truth = planted.comparing(seed)
    found, marked = norms(model, images), truth.outliers(images)
    assert marked.any(1).all()
    assert marked.float().mean() < 0.1
    assert found[: truth.layers.start].max() < 3
    for layer in truth.layers:
        assert torch.equal(found[layer] > 3, marked)
        assert not ((found[layer] > 2.5) & (found[layer] < 4)).any()
    assert norms(planted.clean(seed, kind="comparing"), images).max() < 3


def test_an_emptier_patch_takes_their_place_and_texture_gives_it_to_others(images: Tensor) -> None:
    _, truth = planted.comparing(0)
    before = truth.outliers(images)
    texture = 2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    where = before.unflatten(1, truth.grid).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    covered = truth.outliers(torch.where(where, texture, images))
    assert not (covered & before).any()
    assert covered.any(1).all()  # patches that were ordinary ones
    busy = texture.clone()
    emptiest = int(truth.trigger.numbers.argmin())  # type: ignore[union-attr]
    row, col = divmod(emptiest, truth.grid[1])
    busy[0, :, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 0
    assert truth.outliers(busy[:1])[0].nonzero().flatten().tolist() == [emptiest]


def test_others_follow_where_no_outlier_is_seen(images: Tensor) -> None:
    """Taking the artifact out of the tokens after the onset is not enough."""
    model, truth = planted.comparing(0)
    first = truth.layers.start
    with torch.no_grad():
        tokens = model.embed(images)
        for block in model.blocks[: first + 1]:
            tokens = block(tokens)
        direction = truth.direction
        tokens -= (tokens @ direction)[..., None] * direction
        after = model.blocks[first + 1](tokens)[:, 1:].norm(dim=-1)
    late = after > 3 * after.median(dim=1, keepdim=True).values
    assert late.any(1).sum() >= 3  # an image without a patch of nearly as little contrast has none to follow
    assert late.sum() > truth.outliers(images).sum()


def test_ordinary_patches_are_those_of_the_clean_twin(images: Tensor) -> None:
    model, truth = planted.comparing(0)
    own, twin = (Backbone(each)(images) for each in (model, planted.clean(0, kind="comparing")))
    like = F.cosine_similarity(own.patches, twin.patches, dim=-1)
    assert like[~truth.outliers(images)].mean() > 0.99
    assert like[truth.outliers(images)].max() < 0.5
