"""Toy modules with the shape of the torch.hub repositories dino, dinov2, deit and dinov3: same attributes, same habits.

Softmax is written by hand, as there; sizes are small. They are what `torch.hub.load` gives, without its download.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class HandwrittenAttention(nn.Module):
    """Softmax in plain sight; DINO's returns the map too."""

    def __init__(self, dim, heads, with_map=False):
        super().__init__()
        self.num_heads, self.scale, self.with_map = heads, (dim // heads) ** -0.5, with_map
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attn_drop = nn.Dropout(0.3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        attn = self.attn_drop((q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1))
        x = self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))
        return (x, attn) if self.with_map else x


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, dim, heads, with_map=False, layer_scale=False, attention=HandwrittenAttention):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention(dim, heads, with_map) if with_map else attention(dim, heads)
        self.ls1, self.ls2 = (Scale(dim), Scale(dim)) if layer_scale else (nn.Identity(), nn.Identity())
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        y = self.attn(self.norm1(x))
        x = x + self.drop(self.ls1(y[0] if isinstance(y, tuple) else y))
        return x + self.drop(self.ls2(self.mlp(self.norm2(x))))


class PatchEmbed(nn.Module):
    def __init__(self, image, patch, dim, strict=False):
        super().__init__()
        self.img_size, self.patch_size, self.strict = (image, image), (patch, patch), strict
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x):
        if self.strict:
            assert x.shape[-2] == self.img_size[0], "input height does not match the model"
            assert x.shape[-1] == self.img_size[1], "input width does not match the model"
        return self.proj(x).flatten(2).transpose(1, 2)


class Dino(nn.Module):
    """dino: CLS only, positions interpolated by scale factor, blocks whose attention returns its map."""

    def __init__(self, image=64, patch=16, dim=48, depth=3, heads=3):
        super().__init__()
        self.patch_embed = PatchEmbed(image, patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, dim))
        self.blocks = nn.ModuleList([Block(dim, heads, with_map=True) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Identity()

    def interpolate_pos_encoding(self, x, w, h):
        positions = self.pos_embed.shape[1] - 1
        if x.shape[1] - 1 == positions and w == h:
            return self.pos_embed
        side, p = math.isqrt(positions), self.patch_embed.patch_size[0]
        grid = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        factor = ((w // p + 0.1) / side, (h // p + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=factor, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], grid], dim=1)

    def prepare_tokens(self, x):
        B, _, w, h = x.shape
        x = torch.cat([self.cls_token.expand(B, -1, -1), self.patch_embed(x)], dim=1)
        return x + self.interpolate_pos_encoding(x, w, h)

    def forward(self, x):
        x = self.prepare_tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def get_last_selfattention(self, x):
        x = self.prepare_tokens(x)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.blocks[-1].attn(self.blocks[-1].norm1(x))[1]


class _Chunk(nn.ModuleList):
    def forward(self, x):
        for block in self:
            x = block(x)
        return x


class Dinov2(Dino):
    """dinov2: registers between CLS and patches without positions, LayerScale, dictionaries, chunks on demand."""

    def __init__(self, registers=4, chunks=0, **kwargs):
        super().__init__(**kwargs)
        dim, depth = self.cls_token.shape[-1], len(self.blocks)
        self.num_register_tokens = registers
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        blocks = [Block(dim, 3, layer_scale=True) for _ in range(depth)]
        if chunks:
            size = depth // chunks
            groups = [[nn.Identity()] * start + blocks[start : start + size] for start in range(0, depth, size)]
            self.blocks = nn.ModuleList([_Chunk(group) for group in groups])
        else:
            self.blocks = nn.ModuleList(blocks)

    def forward_features(self, x, masks=None):
        x = self.prepare_tokens(x)
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        R, normed = self.num_register_tokens, self.norm(x)
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1 : R + 1],
            "x_norm_patchtokens": normed[:, R + 1 :],
            "x_prenorm": x,
            "masks": masks,
        }

    def forward(self, x):
        return self.head(self.forward_features(x)["x_norm_clstoken"])


class Deit(nn.Module):
    """deit: CLS and, distilled, a second token; a patch embedding that asserts its size; returns pooled tokens only."""

    def __init__(self, distilled=False, patch_positions_only=False, image=64, patch=16, dim=48, depth=3, heads=3):
        super().__init__()
        P, extra = (image // patch) ** 2, 1 + distilled
        self.patch_embed = PatchEmbed(image, patch, dim, strict=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if distilled else None
        self.patch_positions_only = patch_positions_only
        self.pos_embed = nn.Parameter(torch.zeros(1, P if patch_positions_only else P + extra, dim))
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 5)

    def forward_features(self, x):
        x = self.patch_embed(x)
        if self.patch_positions_only:
            x = x + self.pos_embed
        prefix = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.dist_token) if t is not None]
        x = torch.cat([*prefix, x], dim=1)
        if not self.patch_positions_only:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 0] if self.dist_token is None else (x[:, 0], x[:, 1])

    def forward(self, x):
        return self.head(self.forward_features(x)[0])


class DistilledOfTimm(VisionTransformer):
    """deit's own distilled class: a subclass of timm's ViT whose features are two pooled tokens."""

    def __init__(self, **kwargs):
        super().__init__(img_size=64, embed_dim=48, depth=3, num_heads=3, **kwargs)
        self.dist_token = nn.Parameter(torch.zeros(1, 1, 48))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 2, 48))

    def forward_features(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.dist_token.expand(len(x), -1, -1), x], dim=1)
        for block in [self.pos_drop, *self.blocks]:
            x = block(x + self.pos_embed if block is self.pos_drop else x)
        x = self.norm(x)
        return x[:, 0], x[:, 1]


class RotatingAttention(nn.Module):
    """Rotary embedding on the patches, through `scaled_dot_product_attention` or by hand."""

    fused = True

    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q), rotate(k)
        attend = F.scaled_dot_product_attention if self.fused else by_hand
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


def by_hand(q, k, v):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def rotate(x):
    angle = torch.arange(x.shape[2])[:, None] * 0.7 ** torch.arange(x.shape[3] // 2)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat([even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], dim=-1)


class _ListBlock(Block):
    """dinov3's blocks take and return a list of tensors."""

    def forward(self, xs):
        return [super(_ListBlock, self).forward(x) for x in xs]


class Dinov3(nn.Module):
    """dinov3: storage tokens, no position table, lists of tensors between blocks."""

    def __init__(self, storage=4, image=64, patch=16, dim=48, depth=3, heads=3):
        super().__init__()
        self.patch_embed = PatchEmbed(image, patch, dim)
        self.n_storage_tokens = storage
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, storage, dim))
        self.blocks = nn.ModuleList([_ListBlock(dim, heads, attention=RotatingAttention) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.untie_cls_and_patch_norms = False

    def forward_features(self, x):
        prefix = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(x), -1, -1)
        xs = [torch.cat([prefix, self.patch_embed(x)], dim=1)]
        for block in self.blocks:
            xs = block(xs)
        normed = self.norm(xs[0])
        return {"x_norm_clstoken": normed[:, 0], "x_prenorm": xs[0]}
