"""Toy models of unusual build: registers between the patches, tokens dropped on the way, no attention at all.

Nothing in them is trained. A white patch becomes an outlier in block 0, so the pixels alone tell where outliers are,
whatever the layout says. Images: values around 0, white is 2; the patch is 8 pixels, the native size 32x32.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.anatomy.parts import Anatomy, Size, all_attention_parts
from vitreg.models.posembed import resample_positions
from vitreg.tokens import TokenLayout

PATCH, GRID, WIDTH, HEADS, DEPTH = 8, (4, 4), 48, 3, 3
WHITE = 2.0  # pixels of a patch that becomes an outlier
OUTLIER = 80.0  # times (mean pixel - 1), added in block 0


class Attention(nn.Module):
    """Plain self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Mix tokens by content."""
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Running(nn.Module):
    """Each token reads the mean of those up to it: a state space model in its simplest form, without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Mix tokens by order."""
        return self.proj(x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None])


class Block(nn.Module):
    """A mixer and an MLP; the first one also writes outliers."""

    def __init__(self, mixer: nn.Module, *, writes: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.writes = mixer, writes
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B n D"]:
        """Return the next tokens."""
        white = F.relu(x[..., :1] - 1)  # the first channel of a token is the mean pixel of its patch
        x = x + self.attn(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + F.pad(OUTLIER * white, (1, WIDTH - 2)) if self.writes else x


class Dropping(Block):
    """A block that drops every third patch, counted row by row."""

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B n D"]:
        """Return the tokens that stay."""
        return super().forward(x)[:, kept(x.shape[1])]


def kept(tokens: int) -> list[int]:
    """Indices, of CLS and then all patches, that `Dropping` keeps."""
    return [index for index in range(tokens) if index == 0 or (index - 1) % 3 != 1]


class ToyViT(nn.Module):
    """CLS and patches, in the order of most ViTs."""

    registers = 0
    heads: int | None = HEADS

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.project = nn.Conv2d(3, WIDTH, PATCH, PATCH)
            self.cls, self.positions = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 16, WIDTH))
            self.register_tokens = nn.Parameter(torch.randn(1, self.registers, WIDTH)) if self.registers else None
            self.blocks = nn.ModuleList(self.block(number) for number in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        with torch.no_grad():
            self.project.weight[0], self.project.bias[0] = 1 / self.project.weight[0].numel(), 0  # type: ignore[index]
            for table in (self.cls, self.positions, self.register_tokens):
                if table is not None:
                    table[..., 0] = 0
        self.eval()

    def block(self, number: int) -> Block:
        """Build one block."""
        return Block(Attention(), writes=number == 0)

    def arranged(
        self, cls: Float[Tensor, "B 1 D"], registers: Float[Tensor, "B R D"], patches: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B N D"]:
        """Put tokens into their order."""
        return torch.cat([cls, registers, patches], 1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Return all tokens after the final norm."""
        patches = self.project(images)  # [B, D, rows, cols]
        grid = (patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).transpose(1, 2) + resample_positions(self.positions, GRID, grid)
        cls = self.cls.expand(len(images), -1, -1)
        registers = cls[:, :0] if self.register_tokens is None else self.register_tokens.expand(len(images), -1, -1)
        x = self.arranged(cls, registers, patches)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def layout(self, size: Size) -> TokenLayout:
        """Return the roles of the tokens that enter block 0."""
        return TokenLayout.prefixed((size[0] // PATCH, size[1] // PATCH), cls_tokens=1, registers=self.registers)

    def anatomy(self) -> Anatomy:
        """Describe this model."""
        registers = self.register_tokens
        return Anatomy(
            tower=self,
            blocks=tuple(self.blocks),
            final_norm=self.norm,
            patch=(PATCH, PATCH),
            native_size=(GRID[0] * PATCH, GRID[1] * PATCH),
            heads=self.heads,
            width=WIDTH,
            layout=self.layout,
            encode=self,
            patch_projection=self.project,
            library="toy",
            position_table=lambda: (self.positions[0], GRID),
            register_parameter=lambda: None if registers is None else registers[0],
            attention=() if self.heads is None else all_attention_parts([block.attn for block in self.blocks]),  # type: ignore[misc]
            mlp=tuple(block.fc2 for block in self.blocks),  # type: ignore[misc]
        )


class RegistersBetween(ToyViT):
    """Registers spread over the sequence and CLS in its middle, as in Mamba-R (Wang et al. 2024)."""

    registers = 4

    @staticmethod
    def order(patches: int) -> list[int]:
        """Return, for each place of the sequence, which token of [CLS, registers, patches] stands there."""
        first, found = 1 + RegistersBetween.registers, []
        for patch in range(patches):
            found += [0] if patch == patches // 2 else []
            found += [first + patch]
            done = (patch + 1) * RegistersBetween.registers // patches
            found += range(1 + patch * RegistersBetween.registers // patches, 1 + done)
        return found

    def arranged(
        self, cls: Float[Tensor, "B 1 D"], registers: Float[Tensor, "B R D"], patches: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B N D"]:
        """Put registers after every fourth part of the patches."""
        return super().arranged(cls, registers, patches)[:, self.order(patches.shape[1])]

    def layout(self, size: Size) -> TokenLayout:
        """Return the roles of the tokens in this order."""
        plain = super().layout(size)
        place = {token: index for index, token in enumerate(self.order(plain.num_patches))}
        return TokenLayout(
            cls=(place[0],),
            registers=tuple(place[token] for token in plain.registers),
            other=(),
            patches=tuple(place[token] for token in plain.patch_index.tolist()),
            grid=plain.grid,
        )


class DropsTokens(ToyViT):
    """Every third patch is dropped in block 1, as A-ViT (Yin et al. 2022) lets tokens halt; here it is always the same ones."""

    def block(self, number: int) -> Block:
        """Build one block; the second drops."""
        return (Dropping if number == 1 else Block)(Attention(), writes=number == 0)

    def layout_after(self, block: int, size: Size) -> TokenLayout:
        """Return the roles of the tokens that a block puts out."""
        before = self.layout(size)
        return before if block < 1 else before.without(set(range(before.length)) - set(kept(before.length)))

    def anatomy(self) -> Anatomy:
        """Describe this model."""
        return replace(super().anatomy(), layout_after=self.layout_after)


class TokenMixer(ToyViT):
    """No attention: tokens meet in running means, as in models of the Mamba kind."""

    heads = None

    def block(self, number: int) -> Block:
        """Build one block."""
        return Block(Running(), writes=number == 0)


TOYS: tuple[type[ToyViT], ...] = (RegistersBetween, DropsTokens, TokenMixer)
