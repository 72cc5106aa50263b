"""Our Vision Transformer with register tokens (the paper, Sec. 2.2): the one this project trains and plants artifacts in.

Small and readable on purpose. Its state dict is timm's, so that what is trained here is loaded by
``timm.create_model(..., reg_tokens=R, no_embed_class=True)`` with ``strict=True`` and no conversion. Looking into it
(attention, hidden states) is the business of `vitreg.backbones`, which reads any ViT the same way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.errors import UserError
from vitreg.models.posembed import resample_positions
from vitreg.tokens import TokenLayout


class PatchEmbed(nn.Module):
    """Cut the image into patches and project each one: a convolution whose stride is its kernel."""

    def __init__(self, patch: tuple[int, int], width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
        """Return the patches row-major, before position embeddings."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused q, k, v projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Attend from every token to every token."""
        B, N, D = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, D / heads]
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Apply to each token on its own."""
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """Multiply each channel of a residual branch by a learned gain."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Scale the branch."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block: x + LS(attention(LN x)), then x + LS(mlp(LN x))."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return the residual stream after this block."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A ViT whose sequence is [CLS, registers, patches] (the paper, Sec. 2.2).

    Registers enter after the position embedding and have none of their own. They start as small different noise: equal
    registers would be exchangeable and stay equal for ever. The position table covers patches only and knows its grid,
    so images of any size that is a multiple of the patch are taken, square or not.

    Args:
        image_size: pixels, one number or (height, width), of the stored position table.
        patch: pixels, one number or (height, width).
        width: D, the channels of a token.
        registers: R, how many register tokens.
        layer_scale: initial gain of every residual branch, None for branches without one.
        num_classes: 0 for no classifier; `head` is then the identity.
        cls_token: without one the head reads the mean of the patch tokens.
    Raises:
        ValueError: if the width is not a multiple of the heads, or the image size not one of the patch.
    """

    reg_token: nn.Parameter | None
    cls_token: nn.Parameter | None

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch: int | tuple[int, int] = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        registers: int = 0,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        num_classes: int = 0,
        cls_token: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads")
        self.patch = _pair(patch)
        self.image_size = _pair(image_size)
        rows, cols = (side // p for side, p in zip(self.image_size, self.patch, strict=True))
        if (rows * self.patch[0], cols * self.patch[1]) != self.image_size or not rows * cols:
            raise ValueError(f"an image of {image_size} pixels is not a multiple of a patch of {patch}")
        self.grid = (rows, cols)
        self.width = width
        self.num_registers = registers

        self.patch_embed = PatchEmbed(self.patch, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if cls_token else None
        self.reg_token = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        self.pos_embed = nn.Parameter(torch.empty(1, rows * cols, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fill every parameter as DINOv2 does: linear layers and positions 0.02, CLS and registers 1e-6."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, module.init)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)

    def layout(self, image_size: tuple[int, int] | None = None) -> TokenLayout:
        """Say which index of the sequence plays which role for an image of (height, width) pixels.

        Raises:
            UserError: if a side is not a multiple of the patch.
        """
        grid = self.grid if image_size is None else self._grid(image_size)
        return TokenLayout.prefixed(grid, cls_tokens=int(self.cls_token is not None), registers=self.num_registers)

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Return the tokens that enter the first block: patches with their positions, after CLS and registers.

        Raises:
            UserError: if a side of the images is not a multiple of the patch.
        """
        grid = self._grid((images.shape[-2], images.shape[-1]))
        patches = self.patch_embed(images) + resample_positions(self.pos_embed, self.grid, grid)
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        return torch.cat([*(token.expand(len(images), -1, -1) for token in prefix), patches], dim=1)

    def forward_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Return all tokens after the final norm."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Return the head's answer to CLS, or to the mean patch token of a model without CLS."""
        x = self.forward_features(images)
        return self.head(x[:, 0] if self.cls_token is not None else x[:, self.num_registers :].mean(dim=1))

    def _grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return (rows, cols) for an image size, refusing sizes that the patch does not divide."""
        if any(side % p or side < p for side, p in zip(image_size, self.patch, strict=True)):
            close = [max(1, round(side / p)) * p for side, p in zip(image_size, self.patch, strict=True)]
            raise UserError(
                f"images of {image_size[0]}x{image_size[1]} pixels are not a multiple of the "
                f"{self.patch[0]}x{self.patch[1]} patch; the nearest size is {close[0]}x{close[1]}."
            )
        return image_size[0] // self.patch[0], image_size[1] // self.patch[1]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
