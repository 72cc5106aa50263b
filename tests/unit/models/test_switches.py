"""Every switch of our ViT against its formula, one number at a time in float64."""

import math
import sys
import warnings
from dataclasses import asdict

import pytest
import torch

import vitreg
from vitreg import Capture, UserError
from vitreg.data.sets.settings import DataConfig
from vitreg.models.block import Attention, norm_of
from vitreg.models.parts.rope import turned, turns_of
from vitreg.models.parts.switches import USUAL
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.settings import MaeConfig
from vitreg.testing import check_backbone
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.checks import check_settings

GRID, WIDTH, HEADS = (2, 3), 16, 2
SWITCHED = {
    "off-by-one": {"attention": "off-by-one"},
    "gate": {"gate": True},
    "rope": {"positions": "rope"},
    "no positions": {"positions": "none"},
    "rmsnorm": {"norm": "rmsnorm"},
    "no biases": {"bias": False, "mlp": "swiglu"},
    "no class token": {"cls_token": False},
    "all": {
        "attention": "off-by-one", "gate": True, "positions": "rope", "norm": "rmsnorm", "bias": False, "cls_token": False,
        "mlp": "swiglu",
    },
}  # fmt: skip


def draw(module, scale=1.0, seed=0):
    """Give every parameter a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


def by_hand(attention, x, place):
    """Attention token by token; `place` has (row, col) of the patches, None for others."""
    d = WIDTH // HEADS
    qkv = [
        [sum(w * v for w, v in zip(row, token, strict=True)) for row in attention.qkv.weight.tolist()] for token in x
    ]
    out = [[0.0] * WIDTH for _ in x]
    for head in range(HEADS):
        part = lambda token, which: qkv[token][which * WIDTH + head * d : which * WIDTH + (head + 1) * d]  # noqa: E731, B023
        for i in range(len(x)):
            q = rotated(part(i, 0), place[i])
            logits = []
            for j in range(len(x)):
                k = rotated(part(j, 1), place[j])
                logits.append(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(d))
            top = max([*logits, 0.0])  # e^x / (1 + sum e^x), both sides divided by e^top
            total = sum(math.exp(v - top) for v in logits) + (math.exp(-top) if attention.off_by_one else 0.0)
            for j, logit in enumerate(logits):
                for c, v in enumerate(part(j, 2)):
                    out[i][head * d + c] += math.exp(logit - top) / total * v
    if attention.gate is not None:
        for i, token in enumerate(x):
            for c, row in enumerate(attention.gate.weight.tolist()):
                logit = sum(w * v for w, v in zip(row, token, strict=True))
                out[i][c] *= 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
    return [
        [sum(w * v for w, v in zip(row, token, strict=True)) for row in attention.proj.weight.tolist()] for token in out
    ]


def rotated(channels, place, base=100.0):
    """Turn neighbouring channels: the first half of the pairs by the row, the second by the column."""
    if place is None:
        return channels
    d, found = len(channels), []
    for pair in range(d // 2):
        along = place[0] if pair < d // 4 else place[1]
        angle = along * base ** (-4 * (pair % (d // 4)) / d)
        a, b = channels[2 * pair : 2 * pair + 2]
        found += [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
    return found


@pytest.mark.parametrize("logits", [1, 300])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("off_by_one", [False, True])
def test_attention_is_its_formula(off_by_one, gated, rope, logits):
    attention = draw(Attention(WIDTH, HEADS, bias=False, off_by_one=off_by_one, gated=gated, num_prefix_tokens=2), 0.3)
    with torch.no_grad():
        attention.qkv.weight[: 2 * WIDTH] *= logits**0.5
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    places = [None, None, *((r, c) for r in range(GRID[0]) for c in range(GRID[1]))] if rope else [None] * 8
    turns = turns_of(GRID, WIDTH // HEADS, 100.0).double() if rope else None
    with torch.no_grad():
        found = attention(x[None], turns)[0]
        q, k, _ = attention.qkv(x).unflatten(1, (3, HEADS, -1)).unbind(1)
    largest = (torch.einsum("nhd,mhd->hnm", q, k) * (WIDTH // HEADS) ** -0.5).abs().max()
    assert (largest > 300) == (logits == 300), "the logits are those of trained models"
    truth = torch.tensor(by_hand(attention, x.tolist(), places)).double()
    # PyTorch's kernel keeps the scale in float32, and angles are float32: both are errors of the logits.
    close = 1e-6 * max(1, logits / 10)
    torch.testing.assert_close(found, truth, atol=close * truth.abs().max().item(), rtol=0)


def test_logits_far_below_zero_look_at_nothing_and_logits_far_above_at_tokens():
    attention = draw(Attention(WIDTH, HEADS, bias=False, off_by_one=True), 0.3)
    x = torch.zeros(1, 3, WIDTH).double()
    x[..., 0] = 1
    with torch.no_grad():
        w = attention.qkv.weight
        w.zero_()
        w[0, 0] = w[8, 0] = 40.0  # queries
        w[32:, 0] = 1.0  # values
        for sign, read in ((-1, 0.0), (1, 1.0)):
            w[16, 0] = w[24, 0] = sign * 40.0  # keys
            found = attention(x)
            torch.testing.assert_close(found, read * attention.proj.weight.sum(1).expand_as(found), atol=1e-12, rtol=0)


def test_only_the_difference_of_places_counts():
    turns = turns_of((5, 7), 8, 100.0)
    q, k = torch.randn(2, 1, 1, 1, 8)
    scores = {}
    for a in range(35):
        for b in range(35):
            one = turned(q, turns[:, a : a + 1], 0) @ turned(k, turns[:, b : b + 1], 0).transpose(-2, -1)
            scores.setdefault((a // 7 - b // 7, a % 7 - b % 7), []).append(one.item())
    assert max(max(group) - min(group) for group in scores.values()) < 1e-5
    assert max(map(max, scores.values())) - min(map(min, scores.values())) > 0.1


@pytest.mark.parametrize("options", SWITCHED.values(), ids=SWITCHED)
def test_every_switch_keeps_the_promises_of_a_backbone(options):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 32, 3, 4, registers=2, register_init=0.5, token_init=0.5, **options)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    check_backbone(vitreg.load(model.eval()))


def test_attention_to_nothing_is_read_apart_from_attention_to_tokens():
    model = draw(VisionTransformer(32, 8, 32, 2, 4, registers=1, attention="off-by-one"), 0.3).float()
    images = torch.randn(2, 3, 32, 32)
    trace = vitreg.load(model).trace(images, Capture(qkv="all", projected="all"))
    every = list(range(trace.layout.length))
    for layer in range(2):
        qkv = trace.projected_qkv(layer)
        logits = (qkv.q.double() * qkv.scale) @ qkv.k.double().transpose(-2, -1)
        exact = logits.exp() / (1 + logits.exp().sum(-1, keepdim=True))
        torch.testing.assert_close(trace.attention(layer, every).double(), exact, atol=1e-6, rtol=1e-4)
        assert trace.extra_attention(layer, every).shape == (2, 4, 18, 1)
        assert trace.attention(layer, every).sum(-1).max() < 1
        assert trace.projected_qkv(layer).v.shape[2] == 18, "values of tokens alone"


def test_rotated_and_projected_queries_are_read_before_and_after():
    model = draw(VisionTransformer(32, 8, 32, 1, 4, registers=1, positions="rope"), 0.3).float()
    trace = vitreg.load(model).trace(torch.randn(1, 3, 32, 32), Capture(qkv="all", projected="all"))
    before, after = trace.projected_qkv(0), trace.qkv(0)
    torch.testing.assert_close(after.q[:, :, :3], before.q[:, :, :3])  # CLS, the register, and the patch at (0, 0)
    assert (after.q - before.q)[:, :, 3:].abs().amax((0, 1, 3)).min() > 1e-3
    torch.testing.assert_close(after.v, before.v)
    torch.testing.assert_close(after.q, turned(before.q, turns_of((4, 4), 8, 100.0), 2))


def test_other_sizes_and_stacks_of_sizes_have_their_own_places():
    model = draw(VisionTransformer(32, 8, 32, 2, 4, registers=1, positions="rope", attention="off-by-one"), 0.3)
    small, large = torch.randn(2, 3, 16, 24).double(), torch.randn(1, 3, 32, 32).double()
    both = model.forward_stacks([small, large])
    for tokens, images in zip(both, (small, large), strict=True):
        torch.testing.assert_close(tokens, model.forward_features(images), atol=1e-9, rtol=1e-9)
    moved = model.forward_features(torch.cat([small[..., 8:], small[..., :8]], -1))
    assert not torch.allclose(moved.sum(1), both[0].sum(1), atol=1e-3), "without places the order would not matter"


def test_without_positions_patches_have_no_order():
    model = draw(VisionTransformer(32, 8, 32, 2, 4, positions="none", cls_token=False), 0.3)
    images = torch.randn(1, 3, 32, 32).double()
    turned_round = images.unflatten(2, (4, 8)).flip(2).flatten(2, 3)
    torch.testing.assert_close(model(images), model(turned_round))


def test_hidden_registers_and_registers_that_enter_later():
    model = draw(VisionTransformer(32, 8, 32, 2, 4, registers=2, attention="off-by-one", register_depth=1), 0.3)
    images = torch.randn(1, 3, 32, 32).double()
    kept = torch.tensor([[True, False]])
    hidden = model.forward_features(images, registers_kept=kept)
    model.reg_token.data = model.reg_token.data[:, :1]
    less = VisionTransformer(32, 8, 32, 2, 4, registers=1, attention="off-by-one", register_depth=1).double().eval()
    less.load_state_dict(model.state_dict())
    torch.testing.assert_close(hidden[:, [0, 1, *range(3, 19)]], less.forward_features(images))


def test_a_frozen_projection_gets_no_gradient_and_the_rest_does():
    model = VisionTransformer(32, 8, 32, 1, 4, frozen_patch_embed=True)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "patch_embed.proj.weight", "patch_embed.proj.bias",
    ]  # fmt: skip


def test_without_biases_only_norms_have_one():
    names = [name for name, _ in VisionTransformer(32, 8, 32, 2, 4, bias=False).named_parameters()]
    assert {name.split(".")[-2] for name in names if name.endswith("bias")} == {"norm", "norm1", "norm2"}


def test_usual_settings_are_not_written_into_a_run():
    assert not asdict(USUAL).keys() & ModelConfig().arguments().keys()
    assert ModelConfig(norm="rmsnorm", gate=True).arguments().items() >= {"norm": "rmsnorm", "gate": True}.items()


OWN = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)
    def forward(self, x):
        return self.proj(x.mean(1, keepdim=True).expand_as(x))

def attention(width, heads, bias):
    return Mean(width)

def norm(width, eps):
    return nn.LayerNorm(width, eps=eps, elementwise_affine=False)

def mlp(width, hidden, bias):
    return nn.Sequential(nn.Linear(width, hidden, bias=bias), nn.Tanh(), nn.Linear(hidden, width, bias=bias))

def nothing(width, eps):
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "parts_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield {"attention": "parts_of_mine:attention", "norm": "parts_of_mine:norm", "mlp": "parts_of_mine:mlp"}
    sys.modules.pop("parts_of_mine", None)


def test_parts_of_your_own_are_used_and_read(own):
    model = VisionTransformer(32, 8, 32, 2, 4, registers=1, **own).eval()
    assert type(model.blocks[0].attn).__name__ == "Mean"
    assert model.norm.weight is None
    small, large = torch.randn(2, 3, 16, 16), torch.randn(1, 3, 32, 32)
    for tokens, images in zip(model.forward_stacks([small, large]), (small, large), strict=True):
        torch.testing.assert_close(tokens, model.forward_features(images))
    backbone = vitreg.load(model)
    assert not backbone.attention_status().readable
    assert backbone.trace(large, Capture(norms="all")).norms(-1).shape == (1, 18)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"norm": "layernrom"},
            "norm is 'layernrom'; it must be layernorm or rmsnorm, or the module:function of your own",
        ),
        ({"attention": "no_such_module:f"}, "no module 'no_such_module'"),
        ({"mlp": "math:no_such_function"}, "'math' has no 'no_such_function'"),
        ({"norm": "parts_of_mine:nothing"}, "returned a int"),
        ({"norm": "parts_of_mine:mlp"}, "called with width, eps"),
        ({"attention": "parts_of_mine:attention", "gate": True}, "gate is True"),
        ({"attention": "parts_of_mine:attention", "register_dropout": 0.5}, "register_dropout"),
        ({"positions": "rope", "width": 60, "heads": 6}, "multiple of 4"),
        ({"attention": "off-by-one", "register_attention": "slots"}, "softmax alone"),
        ({"positions": "rop"}, "rop"),
        ({"rope_base": 0.0}, "rope_base"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, said, own):
    model = ModelConfig(**{"width": 32, "heads": 4, "depth": 1, "image_size": 32, "patch": 8} | settings)
    with pytest.raises(UserError) as error:
        VisionTransformer(**model.arguments())
    assert said in str(error.value)
    assert str(error.value).count(". ") == 0


def test_mae_keeps_its_table():
    config = TrainConfig(model=ModelConfig(positions="rope"), recipe=MaeConfig(), data=DataConfig(root="x"))
    with pytest.raises(UserError, match="mae fixes a table"):
        check_settings(config)


def test_rmsnorm_under_autocast_is_computed_in_float32_by_one_kernel():
    torch.manual_seed(0)
    norm, x = norm_of("rmsnorm", 24, 1e-6), torch.randn(3, 24).bfloat16()
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = norm(x)
    wide = x.double()
    truth = wide * wide.square().mean(-1, keepdim=True).add(1e-6).rsqrt() * norm.weight.double()
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)
