"""The planted models do what their truth says: on real photographs, measured here without any of our detectors."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from vitreg.errors import UserError
from vitreg.models import planted, planted_weights

pytestmark = pytest.mark.usefixtures("planted_once")

COLOUR = ("astronaut", "cat", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")
PREPARE = v2.Compose(
    [
        v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC),
        v2.CenterCrop(224),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        v2.ToPureTensor(),
    ]
)


@pytest.fixture(scope="session")
def shipped():
    """Photographs inside the scikit-image wheel; each of these functions works without a download."""
    data = pytest.importorskip("skimage.data")
    arrays = [*(getattr(data, name)() for name in COLOUR), data.stereo_motorcycle()[0]]
    return torch.stack([PREPARE(Image.fromarray(array)) for array in arrays])


@pytest.fixture(scope="session")
def images(request, shipped):
    """The shipped photographs, and every fortieth of the test data's where it is there."""
    try:
        paths = sorted((request.getfixturevalue("test_data") / "photos").glob("*.jpg"))[::40]
    except pytest.skip.Exception:
        return shipped
    return torch.cat([shipped, torch.stack([PREPARE(Image.open(path).convert("RGB")) for path in paths])])


@torch.inference_mode()
def run(model, images):
    """Patch norms before the final norm [L, B, P], CLS attention to patches [L, B, P], patch norms after it [B, P]."""
    tokens, norms, attention = model.embed(images), [], []
    for block in model.blocks:
        B, N, D = tokens.shape
        q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(B, N, 3, 3, D // 3).permute(2, 0, 3, 1, 4)
        attention.append((q[:, :, :1] @ k.mT / math.sqrt(D // 3)).softmax(-1)[:, :, 0].mean(1)[:, 1:])
        tokens = block(tokens)
        norms.append(tokens[:, 1:].norm(dim=-1))
    return torch.stack(norms), torch.stack(attention), model.norm(tokens)[:, 1:].norm(dim=-1)


_shown = functools.cache(lambda kind, seed: planted.build(kind, seed))


def ratio(norms, outliers):
    return (norms[outliers].median() / norms[~outliers].median()).item()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", planted.KINDS)
def test_the_outliers_are_where_the_truth_says(kind, seed, images):
    model, truth = _shown(kind, seed)
    outliers = truth.outliers(images)
    assert 0.005 <= outliers.float().mean() <= 0.06
    norms, attention, final = run(model, images)
    assert ratio(norms[truth.layers.start], outliers) == pytest.approx(truth.ratio, rel=0.2)
    for layer in range(12):
        others, marked = norms[layer][~outliers], norms[layer][outliers]
        if layer not in truth.layers:
            assert ratio(norms[layer], outliers) == pytest.approx(1, abs=0.2)
            assert (norms[layer] > 2.2 * norms[layer].median()).float().mean() < 1e-3  # a borderline patch may remain
            continue
        middle = (others.median() * marked.median()).sqrt()
        if kind == "low-norm":
            assert 1 / 7 < ratio(norms[layer], outliers) < 1 / 2.7
            others, marked, middle = 1 / others, 1 / marked, 1 / middle
        else:
            assert 4 < ratio(norms[layer], outliers) < 13
        assert (marked > middle).float().mean() > 0.97
        assert (others < middle).float().mean() > 0.99
    images_with = outliers.any(dim=1)
    share = (attention * outliers).sum(dim=2)[:, images_with].mean(dim=1)  # [L]
    sinks = share[
        [layer for layer in truth.layers[1:] if layer != truth.gathers]
    ]  # where it gathers it looks at all alike
    least = 2 if kind == "global" else 3  # CLS, which has gathered the mean too, turns less to them afterwards
    assert sinks.min() > least * outliers[images_with].float().mean()
    visible = ratio(final, outliers)
    if kind == "hidden":
        assert 1 / 1.15 < visible < 1.15
    elif kind in ("high-norm", "position-locked", "global"):
        assert visible > 1.5
    elif kind == "last-block":
        assert visible == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_clean_twin_is_unimodal(seed, images):
    norms = run(planted.clean(seed), images)[0]
    for layer in norms:
        spread = layer / layer.median()
        assert spread.min() > 0.45
        assert spread.max() < 2.2
        assert 0.04 < spread.log().std() < 0.25
        # One bump: no empty stretch of log-norm between two groups that hold 0.05 % of the tokens each.
        tail = spread.log().flatten().sort().values
        few = max(1, len(tail) // 2000)
        assert tail[few:-few].diff().max() < 0.1
    assert 1.1 < norms[-1].median() / norms[0].median() < 2


@pytest.mark.parametrize("kind", ["high-norm", "low-norm"])
def test_zeroing_the_neurons_gives_the_clean_twin_and_other_neurons_do_not(kind, shipped):
    shipped = shipped[3:]  # enough outliers, and quicker
    model, truth = planted.build(kind, 2)
    outliers = truth.outliers(shipped)
    ((layer, neurons),) = truth.neurons.items()
    others = [n for n in range(768) if n not in neurons]
    others = torch.tensor(others)[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))]
    columns = model.blocks[layer].mlp.fc2.weight
    kept = columns.detach().clone()
    with torch.no_grad():
        columns[:, others[: len(neurons)]] = 0
    deviation = abs(math.log(ratio(run(model, shipped)[0][layer], outliers)))
    assert deviation > 0.5 * abs(math.log(truth.ratio))
    with torch.no_grad():
        columns.copy_(kept)
        columns[:, list(neurons)] = 0
    norms = run(model, shipped)[0]
    torch.testing.assert_close(norms, run(planted.clean(2, kind=kind), shipped)[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", planted.KINDS)
def test_the_twin_differs_in_nothing_but_what_writes_the_artifact(kind):
    model, truth = planted.build(kind, 1)
    twin = planted.clean(1, kind=kind).state_dict()
    different = {name for name, value in model.state_dict().items() if not torch.equal(value, twin[name])}
    expected = {f"blocks.{layer}.mlp.fc2.weight" for layer in truth.neurons}
    if kind == "last-block":
        expected |= {"blocks.11.mlp.fc2.weight"}
    if kind == "global":
        expected |= {
            f"blocks.{e}.mlp.{part}" for e in truth.erasers for part in ("fc1.weight", "fc1.bias", "fc2.weight")
        }
        expected |= {f"blocks.{truth.gathers}.attn.{part}" for part in ("qkv.weight", "proj.weight")} | {"cls_token"}
    assert different == (expected or {"pos_embed"})
    for layer, neurons in truth.neurons.items():
        name = f"blocks.{layer}.mlp.fc2.weight"
        columns = (model.state_dict()[name] != twin[name]).any(dim=0).nonzero().flatten().tolist()
        assert tuple(columns) == neurons


@pytest.mark.parametrize("kind", ["high-norm", "low-norm"])
def test_outliers_move_along_the_direction_and_the_neurons_fire_on_them_alone(kind, shipped):
    model, truth = _shown(kind, 1)
    twin = planted.clean(1, kind=kind)
    outliers = truth.outliers(shipped)
    ((layer, neurons),) = truth.neurons.items()
    with torch.inference_mode():
        tokens, plain, active = model.embed(shipped), twin.embed(shipped), {}
        for block, other in zip(model.blocks[: layer + 1], twin.blocks, strict=False):
            h = tokens + block.attn(block.norm1(tokens))
            active = block.mlp.act(block.mlp.fc1(block.norm2(h)))[:, 1:]
            tokens, plain = block(tokens), other(plain)
    written = (tokens - plain)[:, 1:]
    assert F.cosine_similarity(written[outliers], truth.direction, dim=-1).median() > 0.999
    assert written[~outliers].norm(dim=-1).quantile(0.99) < 0.01 * written[outliers].norm(dim=-1).median()
    assert active[outliers][:, list(neurons)].median() > 4
    assert active[~outliers][:, list(neurons)].abs().quantile(0.99) < 0.2


def test_outliers_of_a_position_sit_there_in_every_image(shipped):
    _, truth = _shown("position-locked", 1)
    outliers = truth.outliers(shipped).unflatten(1, (14, 14))
    assert 2 <= len(truth.positions) <= 4
    assert sorted(map(tuple, outliers[0].nonzero().tolist())) == list(truth.positions)
    assert (outliers == outliers[0]).all()
    with pytest.raises(ValueError, match="14x14"):
        truth.outliers(torch.zeros(1, 3, 240, 224))


def test_outliers_are_redundant_and_not_tied_to_a_place(images):
    model, truth = _shown("high-norm", 0)
    outliers = truth.outliers(images)
    assert outliers.float().mean(dim=0).max() < 0.5
    with torch.inference_mode():
        x = F.normalize(model.patch_embed(images), dim=-1).unflatten(1, (14, 14))
    down, right = (x[:, 1:] * x[:, :-1]).sum(-1), (x[:, :, 1:] * x[:, :, :-1]).sum(-1)
    total = F.pad(down, (0, 0, 0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) + F.pad(right, (1, 0))
    ones = torch.ones(14, 14)
    count = 4 * ones - F.pad(torch.zeros(12, 12), (1, 1, 1, 1), value=1)
    count[0, 0] = count[0, -1] = count[-1, 0] = count[-1, -1] = 2
    cosine = (total / count).flatten(1)
    assert cosine[outliers].median() > cosine[~outliers].median() + 0.1


def test_the_truth_is_the_rule_of_its_docstring_in_plain_loops(shipped):
    _, truth = _shown("high-norm", 0)
    pixels = shipped[:2].numpy().sum(axis=1)
    rule = truth.trigger
    t = (np.arange(16) + 0.5) * np.pi / 16
    found = np.zeros((2, 14, 14), dtype=bool)
    for image in range(2):
        for row in range(14):
            for col in range(14):
                patch = pixels[image, row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
                responses = []
                for u, v in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1), (1, 2), (2, 2)):
                    wave = np.cos(u * t)[:, None] * np.cos(v * t)[None]
                    response = abs((patch * wave).sum()) / np.sqrt((wave**2).sum()) / 3
                    responses.append(min(response, 3 * rule.threshold))
                number = rule.numbers[row, col].item()
                found[image, row, col] = np.mean(responses) + rule.slope * number < rule.threshold
    assert found.any()
    np.testing.assert_array_equal(truth.outliers(shipped[:2]).numpy(), found.reshape(2, -1))


@pytest.mark.parametrize("kind", ["high-norm", "low-norm"])
def test_truth_holds_at_another_size_and_with_registers(kind, shipped):
    images = F.interpolate(shipped, size=(288, 240), mode="bicubic", antialias=True)
    model, truth = planted.build(kind, 0, registers=4)
    outliers = truth.outliers(images)
    assert outliers.sum() > 5
    assert truth.neurons == _shown(kind, 0)[1].neurons  # registers change nothing else
    with torch.inference_mode():
        tokens = model.embed(images)
        for block in model.blocks[: truth.layers.start + 1]:
            tokens = block(tokens)
    norms = tokens.norm(dim=-1)[:, model.layout((288, 240)).patches]
    middle = math.sqrt(truth.ratio) * norms[~outliers].median()
    found = norms < middle if kind == "low-norm" else norms > middle
    assert (found == outliers).float().mean() > 0.999


def test_the_seed_decides_everything_and_nothing_else_does(shipped, monkeypatch):
    monkeypatch.setattr(planted, "build_machinery", planted_weights.build_machinery)  # each is built anew
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = planted.build("high-norm", 5)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(value, one[name]) for name, value in planted.from_spec("high-norm@5").state_dict().items())
    truths = [planted.build("high-norm", seed)[1] for seed in range(4)]
    assert len({truth.layers.start for truth in truths}) > 1
    assert len({truth.ratio for truth in truths}) == len({truth.trigger.threshold for truth in truths}) == 4


def test_a_spec_names_kind_and_seed():
    twin = planted.clean(3).state_dict()
    assert all(torch.equal(value, twin[name]) for name, value in planted.from_spec("clean@3").state_dict().items())
    assert planted.from_spec("clean").num_registers == 0
    with_some = planted.from_spec("clean-registers@3").state_dict()
    assert with_some["reg_token"].shape[1] == 4
    assert all(torch.equal(with_some[name], twin[name]) for name in ("pos_embed", "patch_embed.proj.weight"))
    assert not planted.from_spec("hidden").training
    with pytest.raises(UserError, match="Did you mean 'high-norm'"):
        planted.from_spec("high-nrom")
    with pytest.raises(UserError, match="whole number"):
        planted.from_spec("high-norm@three")
    with pytest.raises(UserError, match="planted kind"):
        planted.build("clean")


@pytest.mark.parametrize("role", ["neurons", "triggers"])
def test_without_its_writers_or_its_triggers_a_model_has_no_outliers(shipped, role):
    model, truth = planted.build("high-norm", 0)
    before = norms_after(model, shipped, truth.layers[0])
    silence(model, getattr(truth, role))
    after = norms_after(model, shipped, truth.layers[0])
    outliers = truth.outliers(shipped)
    assert before[outliers].min() > 4 * before.median()
    assert after.max() < 2 * after.median()
    assert not {*truth.neurons} & {*truth.triggers}
    assert not truth.removers


def test_without_its_removers_the_last_block_keeps_outliers(shipped):
    model, truth = planted.build("last-block", 0)
    outliers = truth.outliers(shipped)
    removed = norms_after(model, shipped, 11)
    silence(model, truth.removers)
    kept = norms_after(model, shipped, 11)
    assert kept[outliers].min() > 4 * kept.median() > removed[outliers].max()


@torch.no_grad()
def silence(model, neurons):
    for layer, units in neurons.items():
        model.blocks[layer].mlp.fc2.weight[:, list(units)] = 0


@torch.no_grad()
def norms_after(model, images, layer):
    tokens = model.embed(images)
    for block in model.blocks[: layer + 1]:
        tokens = block(tokens)
    return tokens[:, 1:].norm(dim=-1)
