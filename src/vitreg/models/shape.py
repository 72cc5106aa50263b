"""The architecture of a plain ViT, read from a network or from its tensors, to move weights between ViTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vitreg.models.block import Block, LayerScale, Mlp, SwiGLU, swiglu_hidden
from vitreg.models.parts.switches import USUAL, Switches
from vitreg.models.vit import VisionTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The architecture of a ViT.

    Args:
        switches: how our ViT differs from timm's; the usual ones for all others.
        heads, eps: None if read from tensors, which do not tell.
        patch: (height, width) in pixels.
        mlp: "other" where the feed-forward networks have tensors of other names or proportions.
        hidden: width inside the feed-forward networks, after the gate.
        layer_scale: whether residual branches have a learned gain.
        pre_norm: a LayerNorm before the first block and no bias in the patch projection.
    """

    width: int
    depth: int
    heads: int | None
    patch: tuple[int, int]
    mlp: Literal["mlp", "swiglu", "other"]
    hidden: int
    layer_scale: bool
    pre_norm: bool
    eps: float | None
    switches: Switches = USUAL

    @property
    def mlp_ratio(self) -> float | None:
        """The `mlp_ratio` with the fewest digits that gives a `VisionTransformer` this hidden width; None if no ratio
        does."""
        gated = self.mlp == "swiglu"
        ungated = self.hidden * 1.5 if gated else self.hidden
        for digits in range(7):
            ratio = round((ungated + 0.5) / self.width, digits)
            made = int(self.width * ratio)
            if (swiglu_hidden(made) if gated else made) == self.hidden:
                return ratio
        return None


def shape_of(network: VisionTransformer) -> Shape:
    """Read the architecture of one of our networks."""
    first = network.blocks[0]
    assert isinstance(first, Block)
    known = isinstance(first.mlp, Mlp | SwiGLU)
    return Shape(
        width=network.width,
        depth=len(network.blocks),
        heads=network.heads,
        patch=network.patch,
        mlp="swiglu" if isinstance(first.mlp, SwiGLU) else "mlp" if known else "other",
        hidden=first.mlp.fc2.in_features if isinstance(first.mlp, Mlp | SwiGLU) else 0,
        layer_scale=isinstance(first.ls1, LayerScale),
        pre_norm=not isinstance(network.norm_pre, nn.Identity),
        eps=network.norm_eps,
        switches=network.switches,
    )


def in_words(switches: Switches) -> str:
    """Return what a network computes otherwise, as settings: "norm = rmsnorm and bias = False"; empty for timm's ViT."""
    told = {name: value for name, value in switches.unusual.items() if name != "frozen_patch_embed"}
    return " and ".join(f"{name} = {value}" for name, value in told.items())


def shape_of_tensors(tensors: Mapping[str, Tensor], heads: int | None = None, eps: float | None = None) -> Shape:
    """Read the architecture of a ViT from its tensors by canonical name, including `patch_embed.proj.weight`."""
    projection = tensors["patch_embed.proj.weight"]
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    first, second = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("blocks.0.mlp.fc2.weight")
    mlp: Literal["mlp", "swiglu", "other"] = "other"
    hidden = 0
    if first is not None and second is not None:
        hidden = second.shape[1]
        mlp = "mlp" if len(first) == hidden else "swiglu" if len(first) == 2 * hidden else "other"
    return Shape(
        width=projection.shape[0],
        depth=len(blocks),
        heads=heads,
        patch=(projection.shape[-2], projection.shape[-1]),
        mlp=mlp,
        hidden=hidden,
        layer_scale="blocks.0.ls1.gamma" in tensors,
        pre_norm="norm_pre.weight" in tensors,
        eps=eps,
    )
