"""A masked autoencoder (He et al. 2022): the encoder sees a quarter of the patches, a small decoder predicts the
others.

The paper names it beside self-distillation (Sec. 4) and does not train it; here it can be trained with registers too.
They belong to the encoder alone: the mask never hides them, and they are dropped before the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.models.depth import draw_depth
from vitreg.models.heads import MaeDecoder, sincos_positions
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.losses import mae_loss, patchify
from vitreg.recipes.masking import draw_random_masks
from vitreg.recipes.parameters import ParamGroup, group_parameters
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import keep_registers, register_penalty
from vitreg.recipes.settings import MaeConfig, OptimConfig
from vitreg.tokens import TokenLayout


@final
class Mae(nn.Module):
    """An encoder that is kept and a decoder that is thrown away after training."""

    def __init__(self, model: ModelConfig, config: MaeConfig) -> None:
        super().__init__()
        self.model, self.config, self.group = model, config, config.group
        self.encoder = VisionTransformer(**model.arguments())
        if self.encoder.width % 4:
            raise UserError(
                f"MAE's positions want a width that is a multiple of 4; model.width is {self.encoder.width}."
            )
        init_as_mae(self.encoder)
        self.decoder = MaeDecoder(
            self.encoder.width,
            self.encoder.patch,
            self.encoder.grid,
            config.decoder_width,
            config.decoder_depth,
            config.decoder_heads,
        )

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Hide patches, encode the others, predict the pixels of all and compare the hidden ones."""
        images = batch.views[0][0]  # [B, 3, H, W]
        layout = self.encoder.layout()
        hidden = draw_random_masks(len(images), layout.grid, self.config.mask_ratio, self.group, progress)  # [B, P]
        visible = places_of(~hidden).to(images.device)  # [B, K]
        depth = draw_depth(
            self.model.drop_path, len(self.encoder.blocks), len(images), self.model.drop_path_mode, self.group, progress
        )
        kept = keep_registers(self.model, len(images), self.group, progress)
        tokens = keep_patches(self.encoder.embed(images), visible, layout)  # [B, 1 + R + K, D]
        (tokens,) = self.encoder.encode([tokens], depths=[depth], registers_kept=[kept])
        pixels = self.decoder(tokens[:, layout.cls], tokens[:, layout.first_patch :], visible)  # [B, P, h * w * 3]
        loss = mae_loss(
            pixels, patchify(images, self.encoder.patch), hidden.to(images.device), norm_pixels=self.config.norm_pixels
        )
        metrics = {"reconstruction": loss.detach()}
        penalty = register_penalty(self.model, [tokens[:, layout.registers]])
        if penalty is not None:
            loss = loss + penalty
            metrics["decorrelation"] = penalty.detach()
        return StepOutput(loss, metrics, len(images))

    def after_step(self, progress: Progress) -> None:
        """Nothing follows a step."""

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort the weights of the encoder and the decoder."""
        return group_parameters(self, optim)

    def begin_with(self, fill: Callable[[Any], list[str]]) -> list[str]:
        """Start from another encoder."""
        return fill(self.encoder)

    def backbone(self) -> VisionTransformer:
        """The encoder; shown whole images it sees all patches."""
        return self.encoder

    def why_whole_batch(self) -> str | None:
        """Images have equal numbers of hidden patches and do not interact: any split is exact."""
        return None

    def shards(self) -> list[nn.Module]:
        """The blocks of the encoder, then those of the decoder."""
        return [*self.encoder.blocks, *self.decoder.blocks]


def places_of(chosen: Bool[Tensor, "B P"]) -> Int64[Tensor, "B K"]:
    """Return the places of the chosen patches of each image, in order; every image has K of them."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def keep_patches(
    tokens: Float[Tensor, "B N D"], visible: Int64[Tensor, "B K"], layout: TokenLayout
) -> Float[Tensor, "B M D"]:
    """Drop the patches that are not visible; CLS and registers stay. Positions have been added and stay with the patches.

    Args:
        tokens: CLS, registers, then all patches.
        visible: places of the patches that stay.
        layout: of all tokens.
    """
    kept = layout.take(tokens).take_along_dim(visible[..., None], dim=1)  # [B, K, D]
    return torch.cat([tokens[:, : layout.first_patch], kept], dim=1)


@torch.no_grad()
def init_as_mae(encoder: VisionTransformer) -> None:
    """Fill linear layers and patch projection as MAE does, and fix the positions: sines and cosines that never learn.

    CLS and registers keep what the model's settings say (officially CLS is 0.02 wide; registers there are none).
    """
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(encoder.patch_embed.proj.weight.flatten(1))  # a view: as the linear layer that it is
    assert encoder.pos_embed is not None, "MaeConfig.check refuses other positions"
    encoder.pos_embed.copy_(sincos_positions(encoder.grid, encoder.width))
    encoder.pos_embed.requires_grad_(False)
