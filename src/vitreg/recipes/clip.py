"""Training with captions as OpenCLIP does (the paper, Sec. 3.1): match each image with its text within the batch.

The image tower is our ViT, whose registers pass CLIP's first LayerNorm as CLS does, or a model of another library. The
text tower and the tokenizer come from open_clip, so that results compare with its published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.models.block import Attention
from vitreg.models.depth import draw_depth
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.foreign import Network, network_of
from vitreg.recipes.losses import clip_loss
from vitreg.recipes.parameters import ParamGroup, group_parameters
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import keep_registers, register_penalty
from vitreg.recipes.settings import ClipConfig, OptimConfig
from vitreg.recipes.words import VOCABULARY, Tokenizer, open_clip


@final
class Clip(nn.Module):
    """An image tower and a text tower with a common embedding space."""

    def __init__(self, model: ModelConfig, config: ClipConfig) -> None:
        super().__init__()
        self.model, self.config, self.group = model, config, config.group
        self.visual = network_of(model)
        if isinstance(self.visual, VisionTransformer):
            init_as_openclip(self.visual)
        width = self.visual.width
        self.projection = nn.Parameter(width**-0.5 * torch.randn(width, config.embed_dim))
        self.text: nn.Module = open_clip().transformer.TextTransformer(
            context_length=config.context,
            vocab_size=VOCABULARY,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.text_layers,
            output_dim=config.embed_dim,
        )
        # Shape [1], not []: FSDP2 refuses to shard a scalar.
        self.logit_scale = nn.Parameter(torch.full((1,), log(config.scale_start)))

    def tokenizer(self) -> Tokenizer:
        """Return what turns captions into the targets of a batch."""
        return Tokenizer(self.config.context)

    def encode_image(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Return the embedding of each image, of length 1."""
        return self.place(self.visual.forward_features(images))

    def encode_text(self, tokens: Int64[Tensor, "B L"]) -> Float[Tensor, "B E"]:
        """Return the embedding of each text, of length 1."""
        return _unit(self.text(tokens))

    def place(self, tokens: Float[Tensor, "B N W"]) -> Float[Tensor, "B E"]:
        """Project the image tower's final CLS (or mean patch, as `pool` says)."""
        return _unit(self.visual.pooled(tokens) @ self.projection)

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Return the contrastive loss of all images and texts of the global batch.

        Raises:
            UserError: if the images have no captions.
        """
        if batch.targets is None:
            raise UserError("CLIP learns from images with captions, and these have none.")
        images = batch.views[0][0]  # [B, 3, H, W]
        depth = draw_depth(
            self.model.drop_path, len(self.visual.blocks), len(images), self.model.drop_path_mode, self.group, progress
        )
        kept = keep_registers(self.model, len(images), self.group, progress)
        tokens = self.visual.forward_features(images, depth=depth, registers_kept=kept)  # [B, N, W]
        scale = self.logit_scale.exp()
        loss, accuracy = clip_loss(self.place(tokens), self.encode_text(batch.targets), scale)
        metrics = {"contrastive": loss.detach(), "scale": scale.detach().squeeze(), "batch_top1": accuracy}
        penalty = register_penalty(self.model, [tokens[:, self.visual.layout().registers]])
        if penalty is not None:
            loss = loss + penalty
            metrics["decorrelation"] = penalty.detach()
        return StepOutput(loss, metrics, len(images))

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Keep the factor on the similarities from 1 to `scale_max`."""
        self.logit_scale.clamp_(0.0, log(self.config.scale_max))

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort the weights of both towers, the projection and the logit scale."""
        return group_parameters(self, optim)

    def begin_with(self, fill: Callable[[Any], list[str]]) -> list[str]:
        """Start from another image tower."""
        return fill(self.visual)

    def backbone(self) -> Network:
        """The image tower, without the projection."""
        return self.visual

    def why_whole_batch(self) -> str | None:
        """A micro-batch would have fewer negatives."""
        return (
            "the loss of CLIP compares every image with every text of the step; "
            "to save memory set --run.checkpoint-activations, or use more processes."
        )

    def shards(self) -> list[nn.Module]:
        """The blocks of the image tower, then those of the text tower."""
        return [*self.visual.blocks, *self.text.get_submodule("transformer.resblocks").children()]


@torch.no_grad()
def init_as_openclip(tower: VisionTransformer) -> None:
    """Fill linear layers and positions as OpenCLIP does; CLS and registers keep what the model's settings say.

    Its image tower has PyTorch's defaults but for the positions, width^-0.5 wide, and attention, whose projection to
    q, k and v is Xavier-uniform as one matrix, without biases at the start.
    """
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    for block in tower.blocks:
        attention = block.get_submodule("attn")
        if not isinstance(attention, Attention):
            continue  # somebody's own starts as they wrote it
        nn.init.xavier_uniform_(attention.get_parameter("qkv.weight"))
        for name, parameter in attention.named_parameters():
            if name in ("qkv.bias", "proj.bias"):
                nn.init.zeros_(parameter)
    if tower.pos_embed is not None:
        nn.init.normal_(tower.pos_embed, std=tower.width**-0.5)


def _unit(x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    """Scale to length 1, in float32 or better."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
