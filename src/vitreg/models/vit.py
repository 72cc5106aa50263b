"""Our Vision Transformer with register tokens (the paper, Sec. 2.2), used for training and for planted models.

Small and readable on purpose. Its state dict is timm's: ``timm.create_model(..., reg_tokens=R, no_embed_class=True)``
loads it with ``strict=True`` and no conversion. `vitreg.backbones` reads its attention and hidden states, as for any
ViT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitreg.errors import UserError
from vitreg.models.block import Attention, Block, LayerScale, Mlp, SwiGLU, norm_of, pack, unpack
from vitreg.models.depth import DepthPlan
from vitreg.models.parts.rope import Turns, turns_of
from vitreg.models.parts.switches import Switches
from vitreg.models.posembed import resample_positions
from vitreg.tokens import TokenLayout

__all__ = ["Attention", "Block", "LayerScale", "Mlp", "PatchEmbed", "SwiGLU", "VisionTransformer", "publish"]


class PatchProjection(nn.Conv2d):
    """A convolution with stride equal to its kernel size, computed as a matrix product.

    In bfloat16 on a CPU, PyTorch's convolution takes up to five times as long for the gradient.
    """

    def forward(self, input: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D rows cols"]:
        """Project each patch."""
        height, width = self.weight.shape[2:]
        patches = input.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # [B, 3, rows, p, cols, q]
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, rows, cols, 3 * p * q]
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Cut the image into patches and project each one."""

    def __init__(self, patch: tuple[int, int], width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.proj = PatchProjection(3, width, kernel_size=patch, stride=patch, bias=bias)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
        """Return the patches row-major, before position embeddings."""
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """A ViT whose sequence is [CLS, registers, patches] (the paper, Sec. 2.2).

    Registers are added after the position embedding and have no positions. They start as small random noise: equal
    registers would get equal gradients and stay equal for ever. The position table covers patches only and its grid is
    known, so images may have any size that is a multiple of the patch, square or not.

    Args:
        image_size: pixels, one number or (height, width), of the stored position table.
        patch: pixels, one number or (height, width).
        width: D, the channels of a token.
        registers: R, how many register tokens.
        mlp: "mlp", "swiglu", which takes two thirds of the hidden width, rounded up to 8, or somebody's "module:function"
            (`vitreg.models.parts.own`).
        layer_scale: initial gain of every residual branch, None for branches without one.
        num_classes: 0 for no classifier; `head` is then the identity.
        cls_token: without one the head reads the mean of the patch tokens.
        pool: what the head reads: CLS, or the mean of the patch tokens (never registers).
        pre_norm: a LayerNorm before the first block and no bias in the patch projection, as in CLIP.
        register_init, token_init: standard deviation of the registers and of CLS at the start.
        register_positions: add a learned position of their own to the registers; `published_state` folds it in.
        register_depth: block before which registers enter; earlier blocks neither change nor see them. timm loads such
            weights but lacks the option: its registers would enter at the first block.
        register_attention: "softmax", or "slots": in the queries of the registers the softmax goes over the registers. timm
            loads such weights but computes them as "softmax".
        mask_token: learn a token that replaces the embeddings of masked patches (iBOT).
        switches: see `Switches`.
    Raises:
        ValueError: if the width is not a multiple of the heads, the image size not one of the patch, or there is no
            block for the registers to enter.
        UserError: if somebody's part is not there.
    """

    norm: Any  # ours, or somebody's
    pos_embed: nn.Parameter | None
    reg_token: nn.Parameter | None
    cls_token: nn.Parameter | None
    reg_pos: nn.Parameter | None
    mask_token: nn.Parameter | None

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch: int | tuple[int, int] = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        registers: int = 0,
        mlp: str = "mlp",
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        num_classes: int = 0,
        cls_token: bool = True,
        pool: Literal["cls", "mean"] = "cls",
        pre_norm: bool = False,
        norm_eps: float = 1e-6,
        register_init: float = 1e-6,
        token_init: float = 1e-6,
        register_positions: bool = False,
        register_depth: int = 0,
        register_attention: Literal["softmax", "slots"] = "softmax",
        mask_token: bool = False,
        **switches: Any,
    ) -> None:
        super().__init__()
        _refuse_impossible(width, heads, depth, register_depth)
        self.patch = _pair(patch)
        self.image_size = _pair(image_size)
        self.grid = rows, cols = _whole_grid(self.image_size, self.patch)
        self.width, self.heads, self.norm_eps = width, heads, norm_eps
        self.switches = form = Switches(**switches)
        self.num_registers, self.pool = registers, pool if cls_token else "mean"
        self.register_init, self.token_init = register_init, token_init

        self.rope = (width // heads, form.rope_base) if form.positions == "rope" else None
        self.patch_embed = PatchEmbed(self.patch, width, bias=form.bias and not pre_norm)
        self.patch_embed.requires_grad_(not form.frozen_patch_embed)
        self.cls_token = self._table(1, cls_token)
        self.reg_token = self._table(registers, registers > 0)
        self.pos_embed = self._table(rows * cols, form.positions == "learned")
        self.reg_pos = self._table(registers, registers > 0 and register_positions)
        self.mask_token = nn.Parameter(torch.empty(1, width)) if mask_token else None
        self.norm_pre = norm_of(form.norm, width, norm_eps) if pre_norm else nn.Identity()
        place = (int(cls_token), int(cls_token) + registers)  # of the registers in the sequence
        self.blocks = nn.ModuleList(
            Block(
                width, heads, mlp_ratio, layer_scale,
                mlp=mlp, norm_eps=norm_eps, switches=form, prefix=place[1],
                bypass=place if registers and number < register_depth else None,
                slots=place if registers and register_attention == "slots" else None,
            )
            for number in range(depth)
        )  # fmt: skip
        self.norm = norm_of(form.norm, width, norm_eps)
        self.head = nn.Linear(width, num_classes, bias=form.bias) if num_classes else nn.Identity()
        if (
            not self.patch_embed.proj.weight.is_meta
        ):  # which has nothing to fill, and for which torch imports its compiler
            self.init_weights()

    def _table(self, rows: int, wanted: bool) -> nn.Parameter | None:
        return nn.Parameter(torch.empty(1, rows, self.width)) if wanted else None

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as DINOv2: std 0.02 for linear layers and positions, 1e-6 for CLS and registers unless
        configured."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.Conv2d):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, module.init)
        for table in (self.pos_embed, self.reg_pos):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        for token, std in ((self.cls_token, self.token_init), (self.reg_token, self.register_init)):
            if token is not None:
                nn.init.normal_(token, std=std)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)

    def layout(self, image_size: tuple[int, int] | None = None) -> TokenLayout:
        """Return the roles of the tokens for an image of (height, width) pixels.

        Raises:
            UserError: if a side is not a multiple of the patch.
        """
        grid = self.grid if image_size is None else self._grid(image_size)
        return TokenLayout.prefixed(grid, cls_tokens=int(self.cls_token is not None), registers=self.num_registers)

    def embed(
        self, images: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B P"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return the tokens that enter the first block: patches with their positions, after CLS and registers.

        Args:
            mask: patches whose embedding the mask token replaces; their position stays.
        Raises:
            UserError: if a side of the images is not a multiple of the patch.
            ValueError: for a mask on a model without a mask token.
        """
        grid = self._grid((images.shape[-2], images.shape[-1]))
        patches = self.patch_embed(images)  # [B, P, D]
        if mask is not None:
            if self.mask_token is None:
                raise ValueError("a model built without mask_token=True cannot mask patches")
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        if self.pos_embed is not None:
            patches = patches + resample_positions(self.pos_embed, self.grid, grid)
        registers = self.reg_token
        if registers is not None and self.reg_pos is not None:
            registers = registers + self.reg_pos
        prefix = [token.expand(images.shape[0], -1, -1) for token in (self.cls_token, registers) if token is not None]
        return self.norm_pre(torch.cat([*prefix, patches], dim=1))

    def forward_features(
        self,
        images: Float[Tensor, "B 3 H W"],
        *,
        mask: Bool[Tensor, "B P"] | None = None,
        depth: DepthPlan | None = None,
        registers_kept: Bool[Tensor, "B R"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return all tokens after the final norm.

        Args:
            mask: patches that the mask token replaces, before positions are added.
            depth: which samples skip which branch.
            registers_kept: False hides a register of a sample from all its other tokens, as if the model did not have
                it.
        """
        return self.forward_stacks([images], masks=[mask], depths=[depth], registers_kept=[registers_kept])[0]

    def forward_stacks(
        self,
        stacks: Sequence[Float[Tensor, "_B 3 _H _W"]],
        *,
        masks: Sequence[Tensor | None] | None = None,
        depths: Sequence[DepthPlan | None] | None = None,
        registers_kept: Sequence[Tensor | None] | None = None,
    ) -> list[Float[Tensor, "_B _N D"]]:
        """Return what `forward_features` returns for stacks of images of different sizes, computed together.

        All but attention runs on the tokens of all stacks at once (DINOv2's multi-crop in one pass).

        Args:
            masks, depths, registers_kept: one for each stack, or None for none at all.
        """
        masks = [None] * len(stacks) if masks is None else masks
        tokens = [  # overrides of `embed` need not accept masks
            self.embed(images) if mask is None else self.embed(images, mask)
            for images, mask in zip(stacks, masks, strict=True)
        ]
        grids = [self._grid((images.shape[-2], images.shape[-1])) for images in stacks]
        return self.encode(tokens, depths=depths, registers_kept=registers_kept, grids=grids)

    def encode(
        self,
        tokens: Sequence[Float[Tensor, "_B _N D"]],
        *,
        depths: Sequence[DepthPlan | None] | None = None,
        registers_kept: Sequence[Tensor | None] | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> list[Float[Tensor, "_B _N D"]]:
        """Run blocks and final norm on stacks of tokens that `embed` made, with all patches or some (MAE).

        Args:
            tokens: for each stack CLS and registers, then any number of patches.
            depths, registers_kept: as of `forward_stacks`.
            grids: of the patches of each stack, for rotary positions; those of `image_size` if not given.
        """
        nothing = [None] * len(tokens)
        seen = [self._seen(x, kept) for x, kept in zip(tokens, registers_kept or nothing, strict=True)]
        plans = [p and p.to(x.device) for x, p in zip(tokens, depths or nothing, strict=True)]
        turns = [self._turns(x, grid) for x, grid in zip(tokens, grids or nothing, strict=True)]
        stacks = list(tokens)
        for number, block in enumerate(self.blocks):
            draws = [None if plan is None else plan.of(number) for plan in plans]
            if len(stacks) == 1:  # bare tensors: hooks on blocks expect [B, N, D]
                stacks = [block(stacks[0], draws[0], seen[0], turns[0])]
            else:
                stacks = block(stacks, draws, seen, turns)
        packed, shapes = pack(stacks)
        return unpack(self.norm(packed), shapes)

    def pooled(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """Pool the final tokens for the head: CLS, or the mean patch."""
        if self.pool == "cls":
            return tokens[:, 0]
        return tokens[:, self.num_registers + int(self.cls_token is not None) :].mean(dim=1)

    def classify(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B C"]:
        """Return the head's output for the final tokens."""
        return self.head(self.pooled(tokens))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Return the head's output for CLS or for the mean patch token, as `pool` says."""
        return self.classify(self.forward_features(images))

    def publish(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of this network's state dict that a run publishes."""
        return publish(state)

    def published_state(self) -> dict[str, Tensor]:
        """Return the weights as timm loads them with strict=True, without the extras of training."""
        return publish(self.state_dict())

    def _seen(self, tokens: Float[Tensor, "B N D"], kept: Bool[Tensor, "B R"] | None) -> Bool[Tensor, "B N"] | None:
        """Mark the tokens that may be attended to: all but the hidden registers of a sample."""
        if kept is None:
            return None
        start = int(self.cls_token is not None)
        seen = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        seen[:, start : start + self.num_registers] = kept.to(tokens.device)
        return seen

    def _turns(self, tokens: Float[Tensor, "B N D"], grid: tuple[int, int] | None) -> Turns | None:
        """Return the rotary positions of the patches; None for a model without."""
        return None if self.rope is None else turns_of(grid or self.grid, *self.rope, tokens.device)

    def _grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return (rows, cols) for an image size, refusing sizes that the patch does not divide."""
        if any(side % p or side < p for side, p in zip(image_size, self.patch, strict=True)):
            close = [max(1, round(side / p)) * p for side, p in zip(image_size, self.patch, strict=True)]
            raise UserError(
                f"images of {image_size[0]}x{image_size[1]} pixels are not a multiple of the "
                f"{self.patch[0]}x{self.patch[1]} patch; the nearest size is {close[0]}x{close[1]}."
            )
        return image_size[0] // self.patch[0], image_size[1] // self.patch[1]


def publish(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the state dict of a `VisionTransformer` into timm's: no mask token, register positions folded in.

    For states gathered from shards; otherwise use `VisionTransformer.published_state`.
    """
    published = {name: value.detach() for name, value in state.items() if name not in ("mask_token", "reg_pos")}
    if "reg_pos" in state:
        published["reg_token"] = (state["reg_token"] + state["reg_pos"]).detach()
    return published


def _refuse_impossible(width: int, heads: int, depth: int, register_depth: int) -> None:
    if width % heads:
        raise ValueError(f"a width of {width} cannot be shared by {heads} heads")
    if not 0 <= register_depth < max(depth, 1):
        raise ValueError(f"registers cannot enter before block {register_depth} of {depth}")


def _whole_grid(image_size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    rows, cols = (side // p for side, p in zip(image_size, patch, strict=True))
    if (rows * patch[0], cols * patch[1]) != image_size or not rows * cols:
        raise ValueError(f"an image of {image_size} pixels is not a multiple of a patch of {patch}")
    return rows, cols


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
