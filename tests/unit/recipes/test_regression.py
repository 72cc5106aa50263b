"""Numbers for every patch: the loss by hand, what carries none, and what data do not fit."""

import math
from dataclasses import replace

import pytest
import torch
from tests.contracts.recipes.tiny_recipes import MODEL, build

from vitreg import UserError
from vitreg.data.batches.batch import TrainBatch
from vitreg.presets import preset
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import RegressionConfig

NOW = Progress(step=0, total=10, epoch_steps=10)
SETTINGS = RegressionConfig(channels=5, own=2)


def batch(seed=0, samples=2, grid=(4, 4), channels=5):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(1, samples, 3, 32, 32, generator=draw)
    numbers = torch.randn(samples, *grid, channels, generator=draw)
    return images, numbers


def test_the_loss_is_the_mean_over_what_is_asked_and_no_more():
    recipe = build(SETTINGS, seed=0)
    images, numbers = batch()
    numbers[0, 1, 2] = numbers[1, 3] = math.nan
    numbers[0, 0, :, 2:] = 0.0  # asked to be 0, so none of `asked`
    output = recipe(TrainBatch((images,), numbers), NOW)
    vit = recipe.network
    tokens = vit.forward_features(images[0])
    total, own, others, count, asked = 0.0, 0.0, 0.0, 0, 0
    for b in range(2):
        for place in range(16):
            wanted = numbers[b, place // 4, place % 4]
            if wanted.isnan().any():
                continue
            found = vit.head(tokens[b, 3 + place])
            errors = [(f - w) ** 2 for f, w in zip(found.tolist(), wanted.tolist(), strict=True)]
            total, own, count = total + sum(errors) / 5, own + sum(errors[:2]) / 2, count + 1
            if any(wanted[2:] != 0):
                others, asked = others + sum(errors[2:]) / 3, asked + 1
    assert (count, asked) == (27, 23)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)
    assert output.metrics["own"].item() == pytest.approx(own / count, rel=1e-5)
    assert output.metrics["asked"].item() == pytest.approx(others / asked, rel=1e-5)


def test_patches_of_which_nothing_is_asked_give_no_gradient():
    recipe = build(SETTINGS, seed=0)
    images, numbers = batch()
    numbers[:, :2] = math.nan
    grads = []
    for other in (0.0, 7.0):
        changed = numbers.clone()
        changed[:, 2:] += 0  # what is asked stays
        changed[:, :2, :, 1:] = other  # a patch with one NaN is not asked at all
        recipe.zero_grad()
        recipe(TrainBatch((images,), changed), NOW).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in recipe.parameters() if p.grad is not None]))
    assert torch.equal(*grads)
    assert grads[0].isfinite().all()


def test_the_head_is_published_and_linear_layers_start_as_wide_as_said():
    recipe = build(SETTINGS, seed=0)
    assert recipe.backbone().published_state()["head.weight"].shape == (5, 32)
    wide, usual = (build(RegressionConfig(channels=5, own=2, init=each), seed=0) for each in ("fan", "usual"))
    for network, std in ((wide.network, 32**-0.5), (usual.network, 0.02)):
        assert network.blocks[0].attn.qkv.weight.std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"grid": (8, 8)}, "numbers for 8x8 patches and the model 4x4"),
        ({"channels": 6}, "set recipe.channels 6, not 5"),
    ],
)
def test_data_that_do_not_fit_are_one_sentence(shape, said):
    images, numbers = batch(**shape)
    with pytest.raises(UserError) as error:
        build(SETTINGS, seed=0)(TrainBatch((images,), numbers), NOW)
    assert said in str(error.value)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_numbers_of_the_whole_image_are_read_as_a_class_is(pool):
    recipe = SETTINGS.build(replace(MODEL, pool=pool), 0)
    images, _ = batch()
    wanted = torch.randn(2, 1, 1, 5, generator=torch.Generator().manual_seed(1))
    output = recipe(TrainBatch((images,), wanted), NOW)
    found = recipe.network.eval()(images[0])
    assert output.loss.item() == pytest.approx((found - wanted[:, 0, 0]).square().mean().item(), rel=1e-5)
    assert output.metrics["asked"].item() == pytest.approx(
        (found - wanted[:, 0, 0])[:, 2:].square().mean().item(), rel=1e-5
    )
    wanted[1] = math.nan  # nothing is asked of the second
    output = recipe(TrainBatch((images,), wanted), NOW)
    assert output.loss.item() == pytest.approx((found - wanted[:, 0, 0])[0].square().mean().item(), rel=1e-5)


def test_something_must_be_asked_of_others():
    assert "some must be left" in next(iter(RegressionConfig(channels=4, own=4).check(MODEL)))


def test_the_preset_has_any_number_of_registers():
    assert [preset(f"lab-retrieval{each}").model.registers for each in ("", "-reg1", "-reg8")] == [0, 1, 8]
