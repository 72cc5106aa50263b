"""Named models of the slow tier: the factories of the libraries at their own sizes, cut to two blocks."""

from __future__ import annotations

from typing import Any

import timm
from tiny_models import from_transformers
from torch import nn

_TIMM = """
vit_tiny_patch16_224 vit_small_patch32_224 vit_base_patch16_224 vit_base_patch8_224 vit_large_patch16_224
vit_base_patch16_rpn_224 vit_huge_patch14_gap_224 vit_base_patch16_224_miil vit_small_patch14_dinov2
vit_base_patch14_dinov2 vit_large_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_base_patch14_reg4_dinov2
vit_large_patch14_reg4_dinov2 vit_base_patch16_siglip_224 vit_so400m_patch14_siglip_384 vit_base_patch16_siglip_gap_224
vit_base_patch16_clip_224 vit_base_patch32_clip_quickgelu_224 vit_large_patch14_clip_224 vit_medium_patch16_gap_256
vit_medium_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_256 vit_little_patch16_reg1_gap_256
vit_wee_patch16_reg1_gap_256 vit_mediumd_patch16_reg4_gap_256 flexivit_small
deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit_base_distilled_patch16_384 deit3_small_patch16_224
deit3_base_patch16_384 vit_small_patch16_dinov3 vit_base_patch16_dinov3 vit_large_patch16_dinov3
eva02_tiny_patch14_224 eva02_base_patch14_448 eva02_base_patch16_clip_224 eva_large_patch14_196
vit_pe_core_base_patch16_224 vit_base_patch16_rope_reg1_gap_256 vit_base_patch16_rope_mixed_224
beit_base_patch16_224 beitv2_base_patch16_224
""".split()  # noqa: SIM905

_TRANSFORMERS = {
    "google/vit-base": ("ViTModel", "ViTConfig", {"image_size": 224}),
    "facebook/deit-small": ("DeiTModel", "DeiTConfig", {"image_size": 224}),
    "facebook/dinov2-small": ("Dinov2Model", "Dinov2Config", {"image_size": 518, "patch_size": 14}),
    "facebook/dinov2-with-registers-small": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"image_size": 518, "patch_size": 14, "num_register_tokens": 4},
    ),
    "facebook/dinov3-vits16": ("DINOv3ViTModel", "DINOv3ViTConfig", {"image_size": 224, "num_register_tokens": 4}),
    "openai/clip-vit-base-patch32": ("CLIPVisionModel", "CLIPVisionConfig", {"image_size": 224, "patch_size": 32}),
    "google/siglip-base": ("SiglipVisionModel", "SiglipVisionConfig", {"image_size": 224}),
    "google/siglip-so400m-patch14-384": (
        "SiglipVisionModel",
        "SiglipVisionConfig",
        {"image_size": 384, "patch_size": 14},
    ),
    "facebook/vit-mae-base": ("ViTMAEModel", "ViTMAEConfig", {"image_size": 224}),
    "facebook/ijepa-vith14": ("IJepaModel", "IJepaConfig", {"image_size": 224, "patch_size": 14}),
}
_OPEN_CLIP = ["ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14", "coca_ViT-B-32", "ViT-B-16-SigLIP", "EVA02-B-16"]
_TORCHVISION = ["vit_b_16", "vit_b_32", "vit_l_16"]

NAMED = [
    *(f"timm:{name}" for name in _TIMM),
    *(f"hf:{name}" for name in _TRANSFORMERS),
    *(f"openclip:{name}" for name in _OPEN_CLIP),
    *(f"torchvision:{name}" for name in _TORCHVISION),
]


def build_named(name: str) -> nn.Module:
    library, name = name.split(":", 1)
    if library == "timm":
        return timm.create_model(name, pretrained=False, depth=2)
    if library == "hf":
        model, config, changes = _TRANSFORMERS[name]
        return from_transformers(model, config, hidden_size=384, num_attention_heads=6, **changes)
    if library == "openclip":
        import open_clip

        model: Any = open_clip.create_model(name, pretrained=None, load_weights=False).visual
        if hasattr(model, "trunk"):
            model.trunk.blocks = model.trunk.blocks[:2]
        else:
            model.transformer.resblocks = model.transformer.resblocks[:2]
        return model
    import torchvision

    model = getattr(torchvision.models, name)(weights=None)
    model.encoder.layers = model.encoder.layers[:2]
    return model
