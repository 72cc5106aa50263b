"""The planted kind `global`: outliers forget their own patch and carry the mean of the image, or registers do so for them.

Measured on synthetic scenes by the probes of the paper's Sec. 2.2, and on hidden states by plain arithmetic.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitreg.backbones import Backbone, load
from vitreg.data.sets.sides import open_sides
from vitreg.data.sets.synthetic.scene import draw_scene
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.models import planted
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.pixels import Pixels
from vitreg.verbs.eval.tasks.position import Position
from vitreg.verbs.eval.tasks.tokens import Tokens
from vitreg.verbs.eval.token_pass import TokenPass

pytestmark = pytest.mark.usefixtures("planted_once")

SIDE = 224
SQUASHED = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)
SCENES = "synthetic:scenes@3:{}"


@pytest.fixture(scope="module")
def pixels():
    pictures = [np.asarray(draw_scene(5, number).image.resize((SIDE, SIDE))) for number in range(12)]
    return SQUASHED.normalise(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))


@torch.no_grad()
def states(model, pixels):
    """Tokens after every block [L, B, N, D]."""
    tokens, found = model.embed(pixels), []
    for block in model.blocks:
        tokens = block(tokens)
        found.append(tokens)
    return torch.stack(found)


def content(tokens, seed):
    carrier = planted.build_machinery(seed, SIDE, 0).directions.carrier
    return tokens @ carrier.T


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_outliers_forget_themselves_and_carry_the_mean(pixels, seed):
    model, truth = planted.build("global", seed)
    outliers = truth.outliers(pixels)
    assert outliers.sum() > 20
    tokens = states(model, pixels)[:, :, 1:]
    first, *_ = truth.erasers
    lengths = content(tokens, seed).norm(dim=-1)
    assert lengths[first - 1][outliers].median() > 1
    assert lengths[truth.gathers - 1][outliers].quantile(0.9) < 1e-3 * lengths[truth.gathers - 1][~outliers].median()
    gathered = content(tokens[truth.gathers], seed)
    mean = content(tokens[truth.gathers - 1], seed).mean(dim=1)
    spread, between = [], []
    for own, marked in zip(gathered, outliers, strict=True):
        if marked.sum() > 1:
            spread.append((own[marked] - own[marked].mean(0)).norm(dim=-1).median())
            between.append(own[marked].mean(0))
    assert torch.stack(spread).median() < 0.01 * torch.stack(between).std(dim=0).norm()  # all of an image are alike
    with_outliers = outliers.sum(dim=1) > 1
    # What tells one image from another on outliers is what tells their means apart.
    far, near = (
        torch.cdist(torch.stack(between), torch.stack(between)),
        torch.cdist(mean[with_outliers], mean[with_outliers]),
    )
    above = torch.ones_like(far).triu(1).bool()
    assert torch.corrcoef(torch.stack([far[above], near[above]]))[0, 1] > 0.7


@pytest.mark.parametrize("seed", [0, 2])
def test_other_patches_are_those_of_the_clean_twin(pixels, seed):
    model, truth = planted.build("global", seed)
    outliers = truth.outliers(pixels)
    own, twin = (states(each, pixels)[-1][:, 1:] for each in (model, planted.clean(seed, kind="global")))
    alike = F.cosine_similarity(own, twin, dim=-1)
    assert alike[~outliers].quantile(0.01) > 0.99
    assert alike[outliers].max() < 0.5
    plain = states(planted.clean(seed), pixels)[-1][:, 1:]
    torch.testing.assert_close(twin, plain, atol=1e-4, rtol=1e-4)  # neurons that do nothing change nothing


@pytest.mark.parametrize("seed", [0, 1])
def test_without_erasers_they_remember(pixels, seed):
    model, truth = planted.build("global", seed)
    outliers = truth.outliers(pixels)
    with torch.no_grad():
        for layer, units in truth.erasers.items():
            model.blocks[layer].mlp.fc2.weight[:, list(units)] = 0
    kept = content(states(model, pixels)[truth.gathers - 1][:, 1:], seed).norm(dim=-1)
    assert kept[outliers].median() > 0.5 * kept[~outliers].median()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_registers_take_the_artifact(pixels, seed):
    model, truth = planted.with_registers(seed)
    assert (truth.kind, model.num_registers) == ("global-registers", 4)
    assert not truth.outliers(pixels).any()
    assert truth.outliers(pixels).shape == (len(pixels), 196)
    tokens = states(model, pixels)
    norms = tokens.norm(dim=-1)
    for layer in truth.layers:
        patches, registers = norms[layer][:, 5:], norms[layer][:, 1:5]
        assert patches.max() < 2.2 * patches.median()
        assert registers.min() > 4 * patches.median()
    assert norms[: truth.layers.start, :, 1:5].max() < 2 * norms[: truth.layers.start, :, 5:].median()
    carried = content(tokens[-1][:, 1:5], seed)
    assert (carried - carried.mean(1, keepdim=True)).norm(dim=-1).max() < 0.02 * carried.mean(1).std(dim=0).norm()
    clean = states(planted.clean(seed, kind="global", registers=4), pixels)
    assert F.cosine_similarity(tokens[-1][:, 5:], clean[-1][:, 5:], dim=-1).quantile(0.01) > 0.97


@torch.no_grad()
def test_cls_attends_to_the_registers_that_the_layout_names(pixels):
    layout = load("planted:global-registers", precision="fp32").layout((SIDE, SIDE))
    assert len(layout.registers) == 4
    (model, truth), twin = planted.with_registers(0), planted.clean(0, kind="global", registers=4)
    layer, shares = truth.layers.start + 1, []
    for each in (model, twin):
        block, tokens = each.blocks[layer], states(each, pixels)[layer - 1]
        q, k, _ = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 3, 64)).permute(2, 0, 3, 1, 4)
        attended = (q @ k.mT / 8).softmax(-1).mean(1)[:, layout.cls[0]]
        shares.append(attended[:, list(layout.registers)].sum(-1).mean().item())
    assert shares[0] > 5 * shares[1]
    assert shares[0] > 0.15


def bench(model, folder, count):
    backbone = Backbone(model, preprocess=SQUASHED)
    return Bench(backbone=backbone, data=SCENES.format(count), features=folder, workers=0, batch_size=50)


def in_twin(task, on, truth):
    tokens = TokenPass(on, task)
    return task.measure(on, tokens, open_sides(on.data), lambda pixels, _norms: truth.outliers(pixels))


@pytest.mark.slow
def test_probes_find_position_and_pixels_worse_on_outliers(tmp_path):
    model, _ = planted.build("global", 0)
    on = bench(model, tmp_path, 120)
    place, looks = Position(calibration=64).run(on), Pixels(calibration=64).run(on)
    print(place.metrics, looks.metrics)
    assert place.metrics["accuracy_difference_high"] < 0
    assert place.metrics["distance_difference_low"] > 0
    assert looks.metrics["error_difference_low"] > 0


@pytest.mark.slow
def test_outliers_tell_the_class_better_than_other_patches_do(tmp_path):
    model, truth = planted.build("global", 0)
    found = Tokens(calibration=64).run(bench(model, tmp_path / "own", 320))
    print(found.metrics, found.controls, found.notes)
    assert found.metrics["outlier_minus_normal_low"] > 0
    twin = in_twin(Tokens(), bench(planted.clean(0, kind="global"), tmp_path / "twin", 320), truth)
    print(twin.metrics)
    assert twin.metrics["outlier_minus_normal_low"] < 0
