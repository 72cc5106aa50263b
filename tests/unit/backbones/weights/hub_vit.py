"""A ViT under the names of the hub repositories, its twin of timm, and weights that hide nothing behind a zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

DIM, DEPTH, HEADS, SIZE, PATCH = 32, 3, 2, 32, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class HubMlp(nn.Module):
    def __init__(self, gated: bool):
        super().__init__()
        self.gated = gated
        if gated:
            self.w12, self.w3 = nn.Linear(DIM, 2 * 88), nn.Linear(88, DIM)
        else:
            self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.fc2(F.gelu(self.fc1(x)))
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class HubAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class HubScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(DIM))


class HubBlock(nn.Module):
    """One block of the DINOv2 or DeiT-III repository: they differ in the names of LayerScale."""

    def __init__(self, gated: bool, scale: str):
        super().__init__()
        self.scale = scale
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=1e-6), nn.LayerNorm(DIM, eps=1e-6)
        self.attn, self.mlp = HubAttention(), HubMlp(gated)
        if scale == "ls":
            self.ls1, self.ls2 = HubScale(), HubScale()
        elif scale == "gamma":
            self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        scales = {"ls": lambda: (self.ls1.gamma, self.ls2.gamma), "gamma": lambda: (self.gamma_1, self.gamma_2)}
        first, second = scales.get(self.scale, lambda: (1.0, 1.0))()
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class HubPatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, PATCH, PATCH)


class HubViT(nn.Module):
    """A ViT in the shape of the torch.hub repositories, written from their description (token order, names, shapes)."""

    def __init__(
        self, registers: int = 0, gated: bool = False, scale: str = "ls", cls_position: bool = True, mask: bool = True
    ):
        super().__init__()
        self.cls_position = cls_position
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIZE // PATCH) ** 2 + cls_position, DIM))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, DIM)) if registers else None
        if mask:
            self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        self.patch_embed = HubPatches()
        self.blocks = nn.ModuleList(HubBlock(gated, scale) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)
        shake(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat([cls, x], 1) + self.pos_embed if self.cls_position else torch.cat([cls, x + self.pos_embed], 1)
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def shake(module: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that no swap of two tensors goes unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    return module.eval()


def timm_vit(**options) -> VisionTransformer:
    settings = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": DIM,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": 0,
    }
    return VisionTransformer(**(settings | options)).eval()


def chunked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name blocks as FSDP training with one block per chunk does: `blocks.{chunk}.{global index}`."""
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        out[".".join(["blocks", parts[1], *parts[1:]]) if parts[0] == "blocks" else key] = value
    return out


SWIGLU = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2 * 88 / DIM}
REG = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
