"""A planted ViT's weights in the shape of every library: the same model, so the same outliers, neurons and tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import Tensor, nn

from vitreg.backbones.weights.names import from_canonical, routes

SIZE = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "image_size": 112, "patch_size": 16}


def in_timm(planted: nn.Module) -> nn.Module:
    """Our state dict is timm's: loaded strictly, with no key converted."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=112, pretrained=False, no_embed_class=True, num_classes=0
    )
    model.load_state_dict(planted.state_dict(), strict=True)
    return model.eval()


def in_transformers_vit(planted: nn.Module) -> nn.Module:
    import transformers

    config = transformers.ViTConfig(**SIZE, intermediate_size=768, layer_norm_eps=1e-6)
    return converted(planted, transformers.ViTModel(config, add_pooling_layer=False))


def in_transformers_dinov2(planted: nn.Module) -> nn.Module:
    import transformers

    config = transformers.Dinov2Config(**SIZE, mlp_ratio=4, layer_norm_eps=1e-6)
    return converted(planted, transformers.Dinov2Model(config))


def in_open_clip(planted: nn.Module) -> nn.Module:
    from open_clip.transformer import LayerNorm
    from open_clip.transformer import VisionTransformer as Tower

    small = {"image_size": 112, "patch_size": 16, "width": 192, "layers": 12, "heads": 3, "mlp_ratio": 4}
    return converted(planted, Tower(**small, output_dim=192, no_ln_pre=True, norm_layer=partial(LayerNorm, eps=1e-6)))


def in_torchvision(planted: nn.Module) -> nn.Module:
    from torchvision.models import VisionTransformer as Tower

    model = Tower(image_size=112, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)
    return converted(planted, model)


SHAPES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "timm": in_timm,
    "transformers vit": in_transformers_vit,
    "transformers dinov2": in_transformers_dinov2,
    "open_clip": in_open_clip,
    "torchvision": in_torchvision,
}
# What a planted ViT does not have, and what stands for it: a gain of 1, a bias of 0, a token that is never used.
NEUTRAL = {"ls1.gamma": 1.0, "ls2.gamma": 1.0, "mask_token": 0.0, "head.bias": 0.0}


def converted(planted: nn.Module, model: nn.Module) -> nn.Module:
    """Load our weights into another library's module, whose every tensor must have its place."""
    canonical = dict(planted.state_dict())
    canonical["pos_embed"] = torch.cat([torch.zeros(1, 1, 192), canonical["pos_embed"]], 1)  # CLS has no position
    state, used = {}, set()
    for key, route in routes(own := model.state_dict()).items():
        if route.name in canonical:
            state[key] = from_canonical(canonical[route.name], route, own[key].shape)
            used.add(route.name)
        else:
            shape = own[key].shape
            state[key] = torch.eye(*shape) if route.name == "head.weight" else torch.full(shape, _neutral(route.name))
    model.load_state_dict(state, strict=True)
    assert not any(canonical[name].any() for name in canonical.keys() - used)  # OpenCLIP's projection has no bias
    return model.eval()


def _neutral(name: str) -> float:
    return next(value for end, value in NEUTRAL.items() if name == end or name.endswith(f".{end}"))


def same(found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors differ by less than 1e-4 of the largest value."""
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max())
