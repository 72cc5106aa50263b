"""Heads that self-supervised training adds to the backbone and then discards: DINO's projection head and MAE's decoder.

Neither sees registers: the DINO losses read CLS and patches, the decoder gets CLS and the visible patches. State-dict
names of the DINO head are DINOv2's, with the legacy names of weight normalisation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitreg.models.block import Block


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are weight_g * weight_v / ‖weight_v‖ (Salimans & Kingma 2016)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(outputs, 1))
        self.weight_v = nn.Parameter(torch.empty(outputs, width))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start with rows of length 1 in the directions that `nn.Linear` draws."""
        nn.init.ones_(self.weight_g)
        nn.init.uniform_(self.weight_v, -(self.weight_v.shape[1] ** -0.5), self.weight_v.shape[1] ** -0.5)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
        """Project."""
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class DinoHead(nn.Module):
    """Token -> logits over prototypes: an MLP, the L2 norm, a weight-normalised layer (DINO; DINOv2).

    Args:
        width: D of the backbone.
        hidden: width of the MLP's hidden layers.
        bottleneck: width in which features and prototypes are compared.
        prototypes: K, the logits.
        layers: linear layers of the MLP.
        norm_last_layer: keep prototypes at length 1 (DINO's default); DINOv2 trains their length.
    """

    def __init__(
        self,
        width: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        prototypes: int = 65536,
        layers: int = 3,
        *,
        norm_last_layer: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a DINO head has at least one layer, not {layers}")
        widths = [width, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules += [nn.Linear(before, after), nn.GELU()]
        # Official heads of one layer have no Sequential around it: mlp.weight, not mlp.0.weight.
        self.mlp = nn.Sequential(*modules[:-1]) if layers > 1 else modules[0]
        self.last_layer = WeightNormLinear(bottleneck, prototypes)
        self.last_layer.weight_g.requires_grad_(not norm_last_layer)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise the MLP with std 0.02 and zero biases, and the last layer as `WeightNormLinear` does, as in
        official code."""
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer.init_weights()

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
        """Return the logits of each token, before any temperature."""
        x = self.mlp(x)  # [..., bottleneck]
        x = F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12)
        return self.last_layer(x)


class MaeDecoder(nn.Module):
    """Visible tokens -> pixels of every patch (He et al. 2022): mask tokens, fixed positions, a few blocks, a projection.

    The encoder's registers stay outside: drop them before calling.

    Args:
        encoder_width: D of the tokens that come in.
        patch: (height, width) of a patch in pixels.
        grid: (rows, cols) of the patches.
        width, depth, heads: of the decoder.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_width: int,
        patch: tuple[int, int],
        grid: tuple[int, int],
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.grid = grid
        self.register_buffer("positions", torch.empty(grid[0] * grid[1], width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, patch[0] * patch[1] * 3)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as MAE: Xavier-uniform linear layers, zero biases, mask token with std 0.02, fixed positions."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.mask_token, std=0.02)
        self.positions.copy_(sincos_positions(self.grid, self.positions.shape[1]))  # [P, width]

    def forward(
        self,
        cls: Float[Tensor, "B C D"],
        patches: Float[Tensor, "B K D"],
        visible: Int[Tensor, "B K"],
    ) -> Float[Tensor, "B P pixels"]:
        """Predict every patch, visible ones too; the loss ignores those.

        Args:
            cls: CLS after the encoder's final norm, C = 1; C = 0 for an encoder without.
            patches: the visible patches after the encoder's final norm.
            visible: their row-major places on the grid.
        Returns:
            Pixels of each patch, rows, then columns, then colours (h, w, 3), as `vitreg`'s targets are laid out.
        """
        cls, seen = self.embed(cls), self.embed(patches)  # [B, C, width], [B, K, width]
        everywhere = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions), -1)
        x = everywhere.scatter(1, visible[..., None].expand_as(seen), seen) + self.positions  # [B, P, width]
        x = torch.cat([cls.to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.pred(self.norm(x[:, cls.shape[1] :]))


def sincos_positions(grid: tuple[int, int], width: int) -> Float[Tensor, "P width"]:
    """Return fixed 2-D position embeddings, row-major (Vaswani et al. 2017 in two dimensions; MAE).

    The first half of the channels encodes the column, the second the row; in each half, sines of all frequencies
    10000^(-i / (width / 4)) come before the cosines.

    Raises:
        ValueError: if the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(
            f"a width of {width} cannot hold sines and cosines of two coordinates; make it a multiple of 4"
        )
    rows, cols = grid
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).double()  # [P, 2]: row, col
    angles = places.flip(1)[:, :, None] * frequencies  # [P, 2, width / 4]: of the column, of the row
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).float()
