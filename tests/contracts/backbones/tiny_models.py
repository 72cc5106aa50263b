"""Small models of every family with weights that are random in every parameter, so that nothing can hide behind a zero.

A register of zeros, a LayerScale of 1e-5 or a position table of zeros would let a wrong reading pass.
"""

from __future__ import annotations

from collections.abc import Callable

import hub_shaped
import timm
import torch
from torch import nn

from vitreg.models.vit import VisionTransformer


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Add noise to every parameter: tokens, gains and biases 0.3, matrices one over the root of what they sum over."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            matrix = parameter.ndim >= 2 and parameter.shape[0] != 1
            std = parameter[0].numel() ** -0.5 if matrix else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def from_timm(name: str, **kwargs) -> nn.Module:
    patch14 = "patch14" in name
    small = {"img_size": 56 if patch14 else 64, "embed_dim": 48, "depth": 3, "num_heads": 3}
    return timm.create_model(name, pretrained=False, **{**small, **kwargs})


def from_transformers(name: str, config: str, attention: str = "sdpa", **kwargs) -> nn.Module:
    import transformers

    small = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
    feed_forward = {"mlp_ratio": 2} if config.startswith("Dinov2") else {"intermediate_size": 96}
    made = getattr(transformers, config)(**{**small, **feed_forward, **kwargs}, attn_implementation=attention)
    return getattr(transformers, name)(made)


def from_open_clip(**kwargs) -> nn.Module:
    from open_clip.transformer import VisionTransformer as Tower

    small = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 3, "heads": 4, "mlp_ratio": 2, "output_dim": 32}
    return Tower(**{**small, **kwargs})


def open_clip_model() -> nn.Module:
    import open_clip

    vision = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 3, "head_width": 16}
    return open_clip.CLIP(32, vision, {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1})


def open_clip_with_timm_tower() -> nn.Module:
    from open_clip.timm_model import TimmModel

    model = nn.Module()
    model.visual = TimmModel("test_vit", embed_dim=32, image_size=160, pool="", proj="linear")
    return model


def from_torchvision() -> nn.Module:
    # An even number of heads: PyTorch has a fused path for those only, which a backbone must keep off.
    from torchvision.models import VisionTransformer as Tower

    return Tower(image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=96)


def clip_model() -> nn.Module:
    import transformers

    vision = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(
        vision_config={**vision, "image_size": 64, "patch_size": 16}, text_config={**text, **tokens}
    )
    return transformers.CLIPModel(config)


# name -> (builder, indices of the registers, indices of CLS, indices of other tokens)
Row = tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
FAMILIES: dict[str, Row] = {
    "vitreg": (
        lambda: VisionTransformer(64, 16, 48, 3, 3, registers=4, layer_scale=0.1),
        (1, 2, 3, 4),
        (0,),
        (),
    ),
    "vitreg oblong": (lambda: VisionTransformer((64, 32), (16, 8), 48, 3, 3, cls_token=False), (), (), ()),
    "timm vit": (lambda: from_timm("vit_tiny_patch16_224"), (), (0,), ()),
    "timm vit oblong": (lambda: from_timm("vit_tiny_patch16_224", img_size=(64, 96)), (), (0,), ()),
    "timm deit distilled": (lambda: from_timm("deit_tiny_distilled_patch16_224"), (), (0,), (1,)),
    "timm deit3": (lambda: from_timm("deit3_small_patch16_224"), (), (0,), ()),
    "timm dinov2": (lambda: from_timm("vit_small_patch14_dinov2"), (), (0,), ()),
    "timm dinov2 reg": (lambda: from_timm("vit_small_patch14_reg4_dinov2"), (1, 2, 3, 4), (0,), ()),
    "timm dynamic": (lambda: from_timm("vit_small_patch14_reg4_dinov2", dynamic_img_size=True), (1, 2, 3, 4), (0,), ()),
    "timm siglip": (lambda: from_timm("vit_base_patch16_siglip_224"), (), (), ()),
    "timm clip": (lambda: from_timm("vit_base_patch16_clip_224"), (), (0,), ()),
    "timm reg4 gap": (lambda: from_timm("vit_medium_patch16_reg4_gap_256"), (0, 1, 2, 3), (), ()),
    "timm qk-norm": (lambda: from_timm("vit_tiny_patch16_224", qk_norm=True), (), (0,), ()),
    "timm eva02": (lambda: from_timm("eva02_tiny_patch14_224", embed_dim=96), (), (0,), ()),
    "timm dinov3": (lambda: from_timm("vit_small_patch16_dinov3", embed_dim=96), (1, 2, 3, 4), (0,), ()),
    "timm beit": (lambda: from_timm("beit_base_patch16_224"), (), (0,), ()),
    "timm hybrid": (lambda: from_timm("vit_tiny_r_s16_p8_224", embed_dim=48), (), (0,), ()),
    "timm parallel blocks": (lambda: from_timm("vit_base_patch16_xp_224"), (), (0,), ()),
    "timm two attentions": (lambda: from_timm("vit_small_patch16_18x2_224"), (), (0,), ()),
    "timm differential": (lambda: from_timm("vit_dwee_patch16_reg1_gap_256", embed_dim=96), (0,), (), ()),
    "hf vit": (lambda: from_transformers("ViTModel", "ViTConfig"), (), (0,), ()),
    "hf vit oblong": (lambda: from_transformers("ViTModel", "ViTConfig", image_size=(64, 96)), (), (0,), ()),
    "hf vit eager": (lambda: from_transformers("ViTModel", "ViTConfig", "eager"), (), (0,), ()),
    "hf vit classifier": (lambda: from_transformers("ViTForImageClassification", "ViTConfig"), (), (0,), ()),
    "hf deit": (lambda: from_transformers("DeiTModel", "DeiTConfig"), (), (0,), (1,)),
    "hf dinov2": (lambda: from_transformers("Dinov2Model", "Dinov2Config"), (), (0,), ()),
    "hf dinov2 oblong": (lambda: from_transformers("Dinov2Model", "Dinov2Config", image_size=(64, 96)), (), (0,), ()),
    "hf dinov2 registers": (
        lambda: from_transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", num_register_tokens=3),
        (1, 2, 3),
        (0,),
        (),
    ),
    "hf dinov3": (
        lambda: from_transformers("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=4),
        (1, 2, 3, 4),
        (0,),
        (),
    ),
    "hf clip vision": (lambda: from_transformers("CLIPVisionModel", "CLIPVisionConfig"), (), (0,), ()),
    "hf clip": (clip_model, (), (0,), ()),
    "hf siglip vision": (lambda: from_transformers("SiglipVisionModel", "SiglipVisionConfig"), (), (), ()),
    "hf mae": (lambda: from_transformers("ViTMAEModel", "ViTMAEConfig"), (), (0,), ()),
    "hf ijepa": (lambda: from_transformers("IJepaModel", "IJepaConfig"), (), (), ()),
    "open_clip": (from_open_clip, (), (0,), ()),
    "open_clip model": (open_clip_model, (), (0,), ()),
    "open_clip custom block": (lambda: from_open_clip(qk_norm=True, scale_attn_inner=True), (), (0,), ()),
    "open_clip coca": (lambda: from_open_clip(attentional_pool=True, attn_pooler_heads=4), (), (0,), ()),
    "open_clip timm tower": (open_clip_with_timm_tower, (), (0,), ()),
    "torchvision": (from_torchvision, (), (0,), ()),
    "hub dino": (hub_shaped.Dino, (), (0,), ()),
    "hub dinov2": (lambda: hub_shaped.Dinov2(registers=0), (), (0,), ()),
    "hub dinov2 reg": (lambda: hub_shaped.Dinov2(registers=4), (1, 2, 3, 4), (0,), ()),
    "hub dinov2 chunked": (lambda: hub_shaped.Dinov2(registers=2, chunks=3), (1, 2), (0,), ()),
    "hub deit": (hub_shaped.Deit, (), (0,), ()),
    "hub deit distilled": (lambda: hub_shaped.Deit(distilled=True), (), (0,), (1,)),
    "hub deit distilled of timm": (hub_shaped.DistilledOfTimm, (), (0,), (1,)),
    "hub deit3": (lambda: hub_shaped.Deit(patch_positions_only=True), (), (0,), ()),
    "hub dinov3": (hub_shaped.Dinov3, (1, 2, 3, 4), (0,), ()),
}
# Families that cannot be held to every check, with the check and a word of its reason.
READ_ONCE = ("attention", "output projection", "write attention", "write weights", "added keys")
EXEMPT = {
    "timm beit": {"not square": "one size", "added tokens": "position bias"},
    "timm hybrid": {"patch embeddings": "more than the pixels"},
    "timm parallel blocks": {"output projection": "not known"},
    "timm two attentions": dict.fromkeys(READ_ONCE, "2 times") | {"write mlp": "not known"},
    "timm differential": dict.fromkeys(READ_ONCE, "2 times"),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Return one of the families with random weights."""
    torch.manual_seed(seed)
    return randomised(FAMILIES[name][0](), seed)
