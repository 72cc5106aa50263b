"""Captures, edits and traces on a small ViT of ours and on toy attentions, against sums written out here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.apart import apart

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.edits import Edit
from vitreg.backbones.trace import QKV, Capture, token_norms
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer


@pytest.fixture
def vit():
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 3, 3, registers=2, layer_scale=0.5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


class TestCapture:
    def test_all_and_negative_layers(self):
        plan = Capture(hidden="all", norms=[-1, 0], qkv=[1], rows=([-2, 0], (0, 5))).resolve(3, [19] * 3)
        assert plan.hidden == {0, 1, 2}
        assert plan.norms == {0, 2}
        assert plan.rows == {0: (0, 5), 1: (0, 5)}
        assert plan.attention == {0, 1}

    def test_rows_by_layer(self):
        assert Capture(rows={-1: [3], 0: [1, 2]}).resolve(3, [19] * 3).rows == {2: (3,), 0: (1, 2)}

    @pytest.mark.parametrize("layer", [3, -4])
    def test_a_block_that_does_not_exist_is_named(self, layer):
        with pytest.raises(UserError, match=rf"no block {layer} in a model of 3 blocks"):
            Capture(norms=[layer]).resolve(3, [19] * 3)

    def test_a_token_that_does_not_exist_is_named(self):
        with pytest.raises(UserError, match=r"no token 19 .* 19 tokens"):
            Capture(rows=("all", [0, 19])).resolve(3, [19] * 3)

    def test_a_word_other_than_all_is_refused(self):
        with pytest.raises(UserError, match="'last'"):
            Capture(hidden="last").resolve(3, [19] * 3)  # type: ignore[arg-type]


class TestQKV:
    """Recomputed attention equals PyTorch's for every argument it takes."""

    def tensors(self, kv_heads=4):
        generator = torch.Generator().manual_seed(1)
        q = torch.randn(2, 4, 7, 8, generator=generator)
        return q, *(torch.randn(2, kv_heads, 7, 8, generator=generator) for _ in range(2))

    def check(self, qkv, **arguments):
        wanted = F.scaled_dot_product_attention(qkv.q, qkv.k, qkv.v, **arguments)
        torch.testing.assert_close(qkv.mixed(), wanted.transpose(1, 2).flatten(2), rtol=1e-5, atol=1e-6)
        rows = qkv.rows([5, 0])
        torch.testing.assert_close(rows, qkv.rows()[:, :, [5, 0]])
        torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4, 2))

    def test_plain(self):
        self.check(QKV(*self.tensors(), 8**-0.5))

    def test_scale(self):
        self.check(QKV(*self.tensors(), 0.9), scale=0.9)

    @pytest.mark.parametrize("shape", [(7, 7), (1, 4, 7, 7), (2, 4, 7, 7), (2, 1, 1, 7)])
    def test_additive_bias(self, shape):
        bias = torch.randn(shape)
        self.check(QKV(*self.tensors(), 8**-0.5, bias), attn_mask=bias)

    @pytest.mark.parametrize("shape", [(7, 7), (2, 1, 1, 7)])
    def test_boolean_mask(self, shape):
        mask = torch.rand(shape) > 0.4
        mask[..., 0] = True
        self.check(QKV(*self.tensors(), 8**-0.5, mask), attn_mask=mask)

    def test_causal(self):
        self.check(QKV(*self.tensors(), 8**-0.5, causal=True), is_causal=True)

    def test_grouped_queries(self):
        self.check(QKV(*self.tensors(kv_heads=2), 8**-0.5), enable_gqa=True)

    def test_half_precision_is_summed_in_float32(self):
        q, k, v = (t.bfloat16() for t in self.tensors())
        exact = (q.double() @ k.double().transpose(-2, -1) * 8**-0.5).softmax(-1)
        rows = QKV(q, k, v, 8**-0.5).rows()
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.double(), exact, rtol=1e-5, atol=1e-6)


class TestTrace:
    def test_hidden_norms_and_final(self, vit, images):
        trace = Backbone(vit).trace(images, Capture(hidden="all", norms=[1], patch_embeddings=True))
        x = vit.embed(images)
        for layer, block in enumerate(vit.blocks):
            x = block(x)
            torch.testing.assert_close(trace.hidden(layer), x)
        torch.testing.assert_close(trace.norms(1), trace.hidden(1).norm(dim=-1))
        torch.testing.assert_close(trace.norms(2), x.norm(dim=-1))  # computed from the hidden states kept
        torch.testing.assert_close(trace.hidden(-1), trace.hidden(2))
        assert torch.equal(trace.final.values, vit.forward_features(images))
        assert trace.layout.registers == (1, 2)
        torch.testing.assert_close(trace.patch_embeddings, vit.patch_embed(images))

    def test_what_was_not_kept_says_how_to_keep_it(self, vit, images):
        trace = Backbone(vit).trace(images, Capture(norms=[0], rows={1: [0, 2]}))
        for ask, words in (
            (lambda: trace.hidden(0), r"Capture\(hidden=\[0\]\)"),
            (lambda: trace.norms(1), r"Capture\(norms=\[1\]\)"),
            (lambda: trace.qkv(2), r"Capture\(qkv=\[2\]\)"),
            (lambda: trace.projected_qkv(-1), r"Capture\(projected=\[2\]\)"),
            (lambda: trace.attention(1, [1]), r"Capture\(rows=\{1: \[1\]\}\)"),
            (lambda: trace.attention(0, [0]), r"Capture\(rows=\{0: \[0\]\}\)"),
            (lambda: trace.patch_embeddings, "patch_embeddings=True"),
        ):
            with pytest.raises(ValueError, match=words):
                ask()

    def test_rows_are_kept_without_q_k_v(self, vit, images):
        backbone = Backbone(vit)
        whole = backbone.trace(images, Capture(qkv="all"))
        trace = backbone.trace(images, Capture(rows={0: [4, 0], 2: [1]}))
        kept = trace._kept
        assert not any([kept.qkv, kept.projected, kept.hidden])
        torch.testing.assert_close(trace.attention(0, [0, 4]), whole.attention(0, [0, 4]))
        torch.testing.assert_close(trace.attention(0, [4]), whole.attention(0, [4]))
        torch.testing.assert_close(trace.attention(2, [1]), whole.attention(2, [1]))
        assert trace.attention(0, [0]).shape == (2, 3, 1, 19)

    def test_norms_alone_need_no_function_mode(self, vit, images, monkeypatch):
        monkeypatch.setattr(
            "vitreg.backbones.fast_linear.fp32_by_onednn", lambda: False
        )  # it comes by a mode of its own
        depths = []
        vit.blocks[1].register_forward_hook(lambda *_: depths.append(torch._C._len_torch_function_stack()))
        backbone = Backbone(vit)
        backbone.trace(images, Capture(norms="all", hidden="all", patch_embeddings=True))
        assert depths == [0]
        backbone.trace(images, Capture(rows={0: [0]}))
        assert depths[-1] == 1

    def test_compiled_blocks_run_uncompiled_under_hooks(self, vit, images):
        def compiled():
            graphs = []
            for block in vit.blocks:
                block.compile(backend=lambda graph, _inputs: graphs.append(graph) or graph.forward)
            with torch.no_grad():
                output = vit(images)
            before = len(graphs)
            assert before
            trace = Backbone(vit).trace(images, Capture(hidden="all", qkv="all"))
            assert len(graphs) == before, f"{len(graphs) - before} graphs more"
            torch.testing.assert_close(trace.final.cls, output)

        apart(compiled)

    def test_norms_of_half_precision_are_summed_in_float32(self, vit, images):
        trace = Backbone(vit.bfloat16()).trace(images, Capture(hidden="all", norms="all"))
        for layer in range(3):
            assert trace.hidden(layer).dtype == torch.bfloat16
            exact = trace.hidden(layer).double().norm(dim=-1)
            torch.testing.assert_close(trace.norms(layer).double(), exact, rtol=1e-6, atol=0)

    def test_norms_of_double_precision(self):
        hidden = torch.randn(2, 3, 5, dtype=torch.float64)
        assert token_norms(hidden).dtype == torch.float32
        torch.testing.assert_close(token_norms(hidden).double(), hidden.norm(dim=-1), rtol=1e-6, atol=0)


class TestEdit:
    def test_the_rest_of_the_model_reads_the_new_output(self, vit, images):
        def half_the_patches(hidden, place):
            hidden = hidden.clone()
            hidden[:, place.layout.patches] *= 0.5
            return hidden

        trace = Backbone(vit).trace(images, Capture(hidden="all"), [Edit("block", 1, half_the_patches)])
        x = vit.blocks[1](vit.blocks[0](vit.embed(images)))
        x[:, 3:] *= 0.5
        torch.testing.assert_close(trace.hidden(1), x)
        torch.testing.assert_close(trace.final.values, vit.norm(vit.blocks[2](x)))

    def test_edits_of_one_block_run_in_order(self, vit, images):
        plain = Backbone(vit).trace(images, Capture(hidden=[-1]))
        edits = [Edit("block", -1, lambda hidden, _: hidden + 1), Edit("block", 2, lambda hidden, _: hidden * 2)]
        trace = Backbone(vit).trace(images, Capture(hidden=[-1]), edits)
        torch.testing.assert_close(trace.hidden(-1), (plain.hidden(-1) + 1) * 2)

    def test_attention_after_an_edit_is_that_of_the_edited_run(self, vit, images):
        trace = Backbone(vit).trace(
            images, Capture(qkv="all", hidden="all"), [Edit("block", 0, lambda h, _: h.flip(1))]
        )
        block = vit.blocks[1]
        q, k, _v = block.attn.qkv(block.norm1(trace.hidden(0))).chunk(3, dim=-1)
        q, k = (x.unflatten(-1, (3, 8)).transpose(1, 2) for x in (q, k))
        torch.testing.assert_close(trace.attention(1, [0]), (q[:, :, :1] @ k.mT * 8**-0.5).softmax(-1))

    def test_a_block_that_does_not_exist(self, vit, images):
        with pytest.raises(UserError, match="no block 7"):
            Backbone(vit).trace(images, Capture(), [Edit("block", 7, lambda hidden, _: hidden)])
