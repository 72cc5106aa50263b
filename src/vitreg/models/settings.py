"""Settings of our Vision Transformer: named sizes and all options of registers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from vitreg.errors import UserError, unknown
from vitreg.models.arguments import check_arguments
from vitreg.models.parts.switches import Switches
from vitreg.models.parts.words import is_own

# name: (width, depth, heads). H is DeiT-III's, of 14-pixel patches; g is DINOv2's.
SIZES = {
    "T": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
    "g": (1536, 40, 24),
}


UNTRAINED = "random"
"""The `base_weights` of a base that starts untrained."""
OF_A_BASE = ("base", "base_weights", "image_size", "pool")
"""What counts where a base is named; all other settings shape vitreg's own ViT."""
NOT_OF_A_BASE = ("drop_path", "register_dropout", "register_decorrelation")
"""What is done in training, and only with vitreg's own ViT: 0 where a base is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which Vision Transformer is trained."""

    base: str | None = None
    """Train this model, any SPEC of `vitreg scan` but hub:, instead of vitreg's own ViT; of the other model
    settings only base_weights, image_size and pool then apply."""
    base_weights: str | None = None
    """Weights of the base: a file, or "random" for untrained ones; those of its library if unset."""
    size: str = "S"
    """T, S, B, L, H or g; width, depth and heads override it one by one."""
    width: int | None = None
    """Channels of a token."""
    depth: int | None = None
    """Blocks."""
    heads: int | None = None
    """Attention heads."""
    patch: int = 16
    """Side of a patch in pixels."""
    image_size: int = 224
    """Side of the images whose positions are stored; other sizes are interpolated, antialiased."""
    registers: int = 4
    """Learnable extra tokens, dropped at the output."""
    register_init: float = 1e-6
    """Standard deviation; 0 would leave registers equal for ever."""
    register_positions: bool = False
    """Give registers a position embedding of their own."""
    register_depth: int = 0
    """Block before which registers enter; 0 is the paper's."""
    register_dropout: float = 0.0
    """Chance that a register is hidden from a sample's other tokens during training."""
    register_decorrelation: float = 0.0
    """Weight of a penalty on similar registers (the paper's future work)."""
    register_attention: Literal["softmax", "slots"] = "softmax"
    """In the queries of registers: softmax over the keys, or slots: over the registers, so that they compete."""
    mlp: str = "mlp"
    """Feed-forward network: mlp, swiglu (DINOv2 from scratch on ImageNet-22k), or your own as module:function."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width; swiglu takes two thirds of it, rounded up to 8."""
    layer_scale: float | None = 1e-4
    """Initial gain of residual branches."""
    drop_path: float = 0.0
    """Chance that a sample skips a residual branch, the same for all blocks."""
    drop_path_mode: Literal["sample", "subset"] = "sample"
    """Draw for every sample, or compute a branch for a fixed number of samples only (DINOv2, saves time)."""
    token_init: float = 1e-6
    """Standard deviation of CLS."""
    pool: Literal["cls", "mean"] = "cls"
    """What the head reads: CLS, or the mean patch (never registers)."""
    pre_norm: bool = False
    """A LayerNorm before the first block, as in CLIP."""
    norm_eps: float = 1e-6
    """Epsilon of every norm; CLIP's is 1e-5."""
    norm: str = "layernorm"
    """layernorm, rmsnorm, or your own as module:function."""
    attention: str = "softmax"
    """softmax, off-by-one (e^x_i / (1 + sum_j e^x_j)), or your own as module:function."""
    gate: bool = False
    """Multiply what attention reads by sigmoid(W_g x), x the block's normed input, before the output projection."""
    cls_token: bool = True
    """A class token; without one the head reads the mean patch."""
    positions: Literal["learned", "rope", "none"] = "learned"
    """A learned table, rotary embeddings of the patches' rows and columns in attention, or nothing."""
    rope_base: float = 100.0
    """Of rotary frequencies, base ** (-4 j / d) radians a patch, d channels of a head."""
    bias: bool = True
    """Biases of linear layers and of the patch projection."""
    frozen_patch_embed: bool = False
    """Keep the patch projection as it was drawn."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `VisionTransformer`, fit for JSON.

        Raises:
            UserError: for a size that does not exist, or a shape that cannot be built.
        """
        if self.size not in SIZES:
            raise unknown("model size", self.size, SIZES)
        own = (self.width, self.depth, self.heads)
        width, depth, heads = (
            usual if given is None else given for usual, given in zip(SIZES[self.size], own, strict=True)
        )
        if self.registers > 1 and self.register_init <= 0 and not self.register_positions:
            raise UserError("registers that start equal stay equal for ever; set register_init above 0, such as 1e-6.")
        if is_own(self.attention) and self.register_dropout:
            raise UserError(
                f"register_dropout hides tokens, which only vitreg's own attention does; set it to 0 with '{self.attention}'."
            )
        arguments = {
            "image_size": self.image_size,
            "patch": self.patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "registers": self.registers,
            "mlp": self.mlp,
            "mlp_ratio": self.mlp_ratio,
            "layer_scale": self.layer_scale,
            "cls_token": self.cls_token,
            "pool": self.pool,
            "pre_norm": self.pre_norm,
            "norm_eps": self.norm_eps,
            "register_init": self.register_init,
            "register_positions": self.register_positions,
            "register_depth": self.register_depth,
            "register_attention": self.register_attention,
            "token_init": self.token_init,
        } | self.switches().unusual
        check_arguments(arguments)
        return arguments

    def switches(self) -> Switches:
        """Return the switches of the network; a run's model says of these only what is unusual."""
        return Switches(**{each.name: getattr(self, each.name) for each in fields(Switches)})

    def published_arguments(self) -> dict[str, Any]:
        """Return the arguments of the `VisionTransformer` for `published_state`, where register positions are folded
        in."""
        return self.arguments() | {"register_positions": False}
