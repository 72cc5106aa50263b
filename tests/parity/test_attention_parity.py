"""What a trace says against what the libraries themselves say: hidden states, q, k, v, attention maps, final tokens.

Each library is asked in its own way (`output_attentions`, `forward_intermediates`, `need_weights`, a softmax written by
hand), on the same random weights. Hooks of this file read the libraries' modules; nothing of vitreg is used for that.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.trace import Capture
from vitreg.models.vit import VisionTransformer

EVERYTHING = Capture(hidden="all", qkv="all", projected="all")


def close(found, wanted):
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.detach().abs().max().item())


def randomised(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            matrix = parameter.ndim >= 2 and parameter.shape[0] != 1
            std = 1.5 * parameter[0].numel() ** -0.5 if matrix else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def images(size=64, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def outputs_of(modules, run):
    """Run and return what each module put out."""
    seen = {}
    handles = [
        m.register_forward_hook(lambda _m, _i, out, key=key: seen.__setitem__(key, out)) for key, m in modules.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def inputs_of(modules, run):
    seen = {}
    handles = [
        m.register_forward_pre_hook(lambda _m, args, key=key: seen.__setitem__(key, args[0]))
        for key, m in modules.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def heads_of(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, N, d]


TRANSFORMERS = {
    "ViTModel": ("ViTConfig", {}),
    "DeiTModel": ("DeiTConfig", {}),
    "Dinov2Model": ("Dinov2Config", {}),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {"num_register_tokens": 3}),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {"num_register_tokens": 4}),
    "CLIPVisionModel": ("CLIPVisionConfig", {}),
    "SiglipVisionModel": ("SiglipVisionConfig", {}),
    "ViTMAEModel": ("ViTMAEConfig", {"mask_ratio": 0.0}),
    "IJepaModel": ("IJepaConfig", {}),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    transformers = pytest.importorskip("transformers")
    config_name, more = TRANSFORMERS[name]
    config = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
    config |= {"mlp_ratio": 2} if config_name.startswith("Dinov2") else {"intermediate_size": 96}

    def made(attention):
        return getattr(transformers, name)(
            getattr(transformers, config_name)(**config, **more, attn_implementation=attention)
        )

    fused, eager = randomised(made("sdpa")), made("eager").eval()
    eager.load_state_dict(fused.state_dict())
    arguments = {"noise": torch.arange(16.0).expand(2, -1)} if name == "ViTMAEModel" else {}
    with torch.no_grad():
        own = eager(images(), output_hidden_states=True, output_attentions=True, **arguments)
    trace = Backbone(fused).trace(images(), EVERYTHING)

    final = own.last_hidden_state
    close(trace.final.values, fused.post_layernorm(final) if name == "CLIPVisionModel" else final)
    assert len(own.attentions) == trace.depth
    blocks = Backbone(eager).anatomy.blocks
    attentions = {i: getattr(b, "attention", None) or b.self_attn for i, b in enumerate(blocks)}
    projections = {(i, n): getattr(a, n) for i, a in attentions.items() for n in ("q_proj", "k_proj", "v_proj")}
    projected = outputs_of(projections, lambda: eager(images(), **arguments))
    for layer in range(trace.depth):
        # The last hidden state of some classes is the normed one; the input of the final norm is compared below.
        if layer < trace.depth - 1:
            close(trace.hidden(layer), own.hidden_states[layer + 1])
        close(trace.attention(layer, range(trace.layout.length)), own.attentions[layer])
        for part, what in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v")):
            close(getattr(trace.projected_qkv(layer), what), heads_of(projected[layer, part], 3))
    if name != "CLIPVisionModel":
        norm = Backbone(eager).anatomy.final_norm
        close(trace.hidden(-1), inputs_of({0: norm}, lambda: eager(images(), **arguments))[0])


TIMM = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56},
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_clip_224": {},
    "vit_medium_patch16_reg4_gap_256": {},
    "vit_tiny_patch16_224 qk-norm": {"qk_norm": True},
    "eva02_tiny_patch14_224": {"img_size": 56, "embed_dim": 96},
    "vit_small_patch16_dinov3": {"embed_dim": 96},
    "vit_base_patch16_rope_mixed_224": {"embed_dim": 96},
    "beit_base_patch16_224": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    from timm.layers import set_fused_attn

    arguments = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3, **TIMM[name]}
    fused = randomised(timm.create_model(name.split()[0], pretrained=False, **arguments))
    set_fused_attn(False)
    try:
        plain = timm.create_model(name.split()[0], pretrained=False, **arguments).eval()
    finally:
        set_fused_attn(True)
    plain.load_state_dict(fused.state_dict())
    pictures = images(arguments["img_size"])
    trace = Backbone(fused).trace(pictures, EVERYTHING)

    with torch.no_grad():
        final, intermediates = fused.forward_intermediates(pictures, output_fmt="NLC", return_prefix_tokens=True)
    close(trace.final.values, final)
    # softmax by hand passes its map through attn_drop: the library's own attention, after qk-norm and rotary embedding
    maps = outputs_of({i: b.attn.attn_drop for i, b in enumerate(plain.blocks)}, lambda: plain(pictures))
    entering = inputs_of({i: b.attn for i, b in enumerate(plain.blocks)}, lambda: plain(pictures))
    for layer, block in enumerate(plain.blocks):
        spatial, prefix = (
            intermediates[layer] if isinstance(intermediates[layer], tuple) else (intermediates[layer], None)
        )
        whole = spatial if prefix is None else torch.cat([prefix, spatial], dim=1)
        close(trace.hidden(layer), whole)
        close(trace.attention(layer, range(trace.layout.length)), maps[layer])
        attention, x = block.attn, entering[layer]
        if attention.qkv is None:
            q, k, v = (F.linear(x, p.weight, p.bias) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        else:
            bias = attention.qkv.bias
            if bias is None and getattr(attention, "q_bias", None) is not None:
                bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            q, k, v = F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)
        for found, wanted in zip(
            (trace.projected_qkv(layer).q, trace.projected_qkv(layer).k, trace.projected_qkv(layer).v),
            (q, k, v),
            strict=True,
        ):
            close(found, heads_of(wanted.detach(), 3))


def test_rotary_keys_differ_from_projected_keys_and_the_names_keep_them_apart():
    model = randomised(timm.create_model("vit_small_patch16_dinov3", img_size=64, embed_dim=96, depth=2, num_heads=3))
    trace = Backbone(model).trace(images(), EVERYTHING)
    seen, projected, layout = trace.qkv(0).k, trace.projected_qkv(0).k, trace.layout
    prefix = [*layout.cls, *layout.registers]
    close(seen[:, :, prefix], projected[:, :, prefix])  # rotary embedding is for patches only
    moved = (seen - projected)[:, :, layout.patches].norm() / projected[:, :, layout.patches].norm()
    assert moved > 0.1
    close(seen.norm(dim=-1), projected.norm(dim=-1))  # a rotation


def test_open_clip():
    tower = pytest.importorskip("open_clip.transformer").VisionTransformer
    model = randomised(tower(image_size=64, patch_size=16, width=48, layers=3, heads=3, mlp_ratio=2, output_dim=32))
    trace = Backbone(model).trace(images(), EVERYTHING)
    with torch.no_grad():
        own = model.forward_intermediates(images(), output_fmt="NLC", output_extra_tokens=True)
        close(trace.final.cls @ model.proj, model(images()))
    entering = inputs_of({i: b.ln_1 for i, b in enumerate(model.transformer.resblocks)}, lambda: model(images()))
    for layer, block in enumerate(model.transformer.resblocks):
        whole = torch.cat([own["image_intermediates_prefix"][layer], own["image_intermediates"][layer]], dim=1)
        close(trace.hidden(layer), whole)
        check_multihead(trace, layer, block.attn, block.ln_1(entering[layer]).detach())


def test_torchvision():
    from torchvision.models import VisionTransformer as Tower

    model = randomised(
        Tower(image_size=64, patch_size=16, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=5)
    )
    trace = Backbone(model).trace(images(), EVERYTHING)
    with torch.no_grad():
        close(model.heads(trace.final.cls), model(images()))
    blocks = dict(enumerate(model.encoder.layers))
    own = outputs_of(blocks, lambda: model(images()))
    entering = inputs_of(blocks, lambda: model(images()))
    for layer, block in blocks.items():
        close(trace.hidden(layer), own[layer])
        check_multihead(trace, layer, block.self_attention, block.ln_1(entering[layer]).detach())


def check_multihead(trace, layer, attention: nn.MultiheadAttention, x):
    with torch.no_grad():
        _, maps = attention(x, x, x, need_weights=True, average_attn_weights=False)
        projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    close(trace.attention(layer, range(trace.layout.length)), maps)
    for found, wanted in zip(("q", "k", "v"), projected, strict=True):
        close(getattr(trace.projected_qkv(layer), found), heads_of(wanted, 3))
        close(getattr(trace.qkv(layer), found), heads_of(wanted, 3))


class ByHand(nn.Module):
    """A ViT with softmax by hand, as in the dino and deit repositories; keeps what it computed."""

    def __init__(self, dim=48, heads=3):
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.seen = None

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        self.seen = (q, k, v, attn)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


def test_softmax_by_hand_and_our_own_vit_agree_with_each_other():
    ours = randomised(VisionTransformer(64, 16, 48, 3, 3, registers=4, layer_scale=0.5))
    by_hand = VisionTransformer(64, 16, 48, 3, 3, registers=4, layer_scale=0.5).eval()
    for block in by_hand.blocks:
        block.attn = ByHand()
    by_hand.load_state_dict(ours.state_dict())
    backbone = Backbone(by_hand)
    assert backbone.attention_status().source == "projections"
    trace, written = Backbone(ours).trace(images(), EVERYTHING), backbone.trace(images(), EVERYTHING)
    close(trace.final.values, written.final.values)
    for layer, block in enumerate(by_hand.blocks):
        q, k, v, attn = block.attn.seen
        for found in (trace, written):
            close(found.attention(layer, range(21)), attn.detach())
            for name, wanted in (("q", q), ("k", k), ("v", v)):
                close(getattr(found.qkv(layer), name), wanted.detach())
                close(getattr(found.projected_qkv(layer), name), wanted.detach())
