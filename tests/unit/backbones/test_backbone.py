"""The manners of `Backbone`: what it refuses, what it leaves alone, and when it says that attention cannot be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.edits import Edit
from vitreg.backbones.trace import Capture
from vitreg.errors import UserError
from vitreg.models.vit import Attention, VisionTransformer


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, 3, 3, registers=2).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def with_attention(vit, make):
    for block in vit.blocks:
        block.attn = make(24, 3)
    return vit


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32, 3).byte()]
)
def test_what_is_no_batch_of_images_is_refused(vit, wrong):
    with pytest.raises(UserError, match="floating point tensor"):
        Backbone(vit)(wrong)


def test_images_follow_the_dtype_of_the_model(vit, images):
    assert Backbone(vit.double())(images).values.dtype == torch.float64
    assert Backbone(vit.bfloat16())(images).values.dtype == torch.bfloat16


def test_no_gradients_and_training_flags_as_they_were(vit, images):
    vit.train()
    vit.blocks[1].eval()
    tokens = Backbone(vit)(images)
    assert not tokens.values.requires_grad
    assert vit.training
    assert vit.blocks[0].attn.training
    assert not vit.blocks[1].training


def test_hooks_of_the_user_stay_and_run(vit, images):
    seen = []
    vit.blocks[0].register_forward_hook(lambda _m, _i, output: seen.append(1) or output * 2)
    trace = Backbone(vit).trace(images, Capture(hidden=[0]))
    assert seen == [1]
    torch.testing.assert_close(trace.hidden(0), vit.blocks[0](vit.embed(images)))  # as the user's hook changed it
    assert len(vit.blocks[0]._forward_hooks) == 1


def test_an_error_inside_leaves_nothing_behind(vit, images):
    fast = torch.backends.mha.get_fastpath_enabled()
    vit.train()

    def fail(_hidden, _layout):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        Backbone(vit).trace(images, Capture(qkv="all", norms="all"), [Edit("block", 1, fail)])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())
    assert vit.training
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch._C._len_torch_function_stack() == 0


def test_the_check_of_attention_runs_once(vit, images):
    backbone = Backbone(vit)
    runs = []
    vit.norm.register_forward_hook(lambda *_: runs.append(1))
    backbone.trace(images, Capture(rows={0: [0]}))
    backbone.trace(images, Capture(rows={0: [0]}))
    assert len(runs) == 4  # two probes, two traces
    backbone.trace(images, Capture(norms="all"))
    assert len(runs) == 5


def test_projections_are_found_after_the_parameters_were_replaced(vit, images):
    backbone = Backbone(vit)
    before = backbone.trace(images, Capture(projected=[1])).projected_qkv(1).q
    vit.load_state_dict({name: 2 * value.clone() for name, value in vit.state_dict().items()}, assign=True)
    after = backbone.trace(images, Capture(projected=[1], hidden=[0])).projected_qkv(1).q
    assert not torch.allclose(before, after)


def test_traces_work_under_autocast_and_inference_mode(vit, images):
    backbone = Backbone(vit)
    plain = backbone.trace(images, Capture(norms="all", rows={2: [0]}))
    with torch.inference_mode():
        torch.testing.assert_close(backbone.trace(images, Capture(norms="all")).norms(-1), plain.norms(-1))
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.trace(images, Capture(norms="all", rows={2: [0]}))
    assert half.norms(-1).dtype == half.attention(2, [0]).dtype == torch.float32
    torch.testing.assert_close(half.norms(-1), plain.norms(-1), rtol=0.02, atol=0)
    torch.testing.assert_close(half.attention(2, [0]).sum(-1), torch.ones(2, 3, 1))


def test_a_block_that_runs_twice_is_ambiguous(images):
    class Repeating(VisionTransformer):
        def forward_features(self, images):
            x = self.embed(images)
            for block in [*self.blocks, self.blocks[0]]:
                x = block(x)
            return self.norm(x)

    with pytest.raises(UserError, match="block 0 ran 2 times"):
        Backbone(Repeating(32, 8, 24, 3, 3)).trace(images, Capture(norms="all"))


class Twice(Attention):
    """Attends twice, as differential attention does."""

    def forward(self, x):
        return super().forward(x) - 0.5 * super().forward(x)


class Temperature(Attention):
    """A softmax by hand with a temperature that no reader can know of."""

    def forward(self, x):
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = (q @ k.transpose(-2, -1) * 7).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Half(Attention):
    """Attends among half of the tokens only."""

    def forward(self, x):
        half = x.shape[1] // 2
        return torch.cat([super().forward(x[:, :half]), super().forward(x[:, half:])], dim=1)


@pytest.mark.parametrize(
    ("attention", "words"),
    [(Twice, "2 times"), (Temperature, "differs from what it computes"), (Half, "no attention over all tokens")],
)
def test_attention_that_cannot_be_read_is_refused_and_norms_still_work(vit, images, attention, words):
    with torch.no_grad():
        for parameter in with_attention(vit, attention).parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    backbone = Backbone(vit)
    status = backbone.attention_status()
    assert not status.readable
    assert words in status.reason
    assert "norms" in status.reason
    assert "\n" not in status.reason
    for capture in (Capture(rows={0: [0]}), Capture(qkv=[0])):
        with pytest.raises(UserError, match="cannot be read"):
            backbone.trace(images, capture)
    assert backbone.trace(images, Capture(norms="all")).norms(0).shape == (2, 19)


class Biased(Attention):
    """Grouped queries, a bias per head, and a scale of its own: all that `scaled_dot_product_attention` takes."""

    def forward(self, x):
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = torch.arange(3.0)[:, None, None] * -(torch.arange(N)[:, None] - torch.arange(N)).abs() / N
        x = F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], attn_mask=bias, scale=0.7, enable_gqa=True)
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


def test_every_argument_of_attention_is_honoured(vit, images):
    with torch.no_grad():
        for parameter in with_attention(vit, Biased).parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    backbone = Backbone(vit)
    assert backbone.attention_status().source == "sdpa"
    qkv = backbone.trace(images, Capture(qkv="all")).qkv(1)
    assert qkv.k.shape[1] == 1
    assert qkv.scale == 0.7
    assert qkv.mask is not None


def test_attention_in_a_pooling_head_is_not_taken_for_a_blocks(vit, images):
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.pool = vit, nn.MultiheadAttention(24, 3, batch_first=True)

        def forward(self, images):
            tokens = self.vit.forward_features(images)
            self.pool(tokens, tokens, tokens, need_weights=False)
            F.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None])
            return tokens

    model = Pooling().eval()
    backbone = Backbone(model, replace(find_anatomy(vit), tower=model, encode=model))
    assert backbone.attention_status().source == "sdpa"
    wanted = Backbone(vit).trace(images, Capture(rows={2: [0]})).attention(2, [0])
    torch.testing.assert_close(backbone.trace(images, Capture(rows={2: [0]})).attention(2, [0]), wanted)


def test_attention_that_changes_after_the_check_is_noticed(vit, images):
    backbone = Backbone(vit)
    assert backbone.attention_status().readable
    with_attention(vit, Twice)
    with pytest.raises(UserError, match="block 0 made 2 attention calls"):
        backbone.trace(images, Capture(rows={0: [0]}))


def test_the_name_of_0_1_0_goes_on_working():
    import vitreg.backbones

    with pytest.warns(DeprecationWarning, match="find_anatomy"):
        assert vitreg.backbones.describe is vitreg.backbones.find_anatomy
    assert not hasattr(vitreg.backbones, "describ")
