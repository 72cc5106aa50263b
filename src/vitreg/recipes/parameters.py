"""Which parameters decay, how fast each learns, and which are clipped together.

The rules read a parameter's name, its number of dimensions and whether it belongs to the Vision Transformer that is
trained or to a head or another tower beside it. Reference: DINOv2's parameter groups; with no token decayed they are
those of DeiT-III and of today's OpenCLIP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from vitreg.models.vit import VisionTransformer
from vitreg.recipes.foreign import ForeignNetwork
from vitreg.recipes.settings.optim import OptimConfig

# Last parts of the names of learned tokens and position tables: ours, OpenCLIP's text and image towers', other libraries'.
TOKENS = frozenset({"cls_token", "reg_token", "mask_token", "pos_embed", "reg_pos"})
TOKENS |= {"class_embedding", "positional_embedding", "cls_emb"}
TOKENS |= {"position_embeddings", "register_tokens", "dist_token", "distillation_token", "class_token"}


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """Parameters with the same treatment.

    Args:
        names: as in the recipe's `named_parameters`, for messages, checkpoints and tests.
        lr_scale, decay_scale: multiply the scheduled values.
        module: what is clipped together: "backbone", or the recipe's own name of a head or another tower.
        frozen_steps: steps during which the learning rate is 0 (the last layer of DINO heads).
    """

    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    lr_scale: float = 1.0
    decay_scale: float = 1.0
    module: str = "backbone"
    frozen_steps: int = 0


def group_parameters(recipe: nn.Module, optim: OptimConfig, *, frozen_last_layer: int = 0) -> list[ParamGroup]:
    """Sort every trainable parameter of a recipe into exactly one group; frozen ones (the teacher) are in none.

    Layer decay and the multiplier of the patch projection act inside the recipe's networks only; all that stands beside
    them (heads, decoder, text tower, logit scale) learns at the full rate.

    Args:
        recipe: holds the modules; before or after sharding.
        frozen_last_layer: steps during which parameters of a `last_layer` do not learn (DINO heads: one epoch).
    """
    towers = {
        f"{name}." if name else "": module
        for name, module in recipe.named_modules()
        if isinstance(module, VisionTransformer | ForeignNetwork)
    }
    groups: dict[tuple[float, float, str, int], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in recipe.named_parameters():
        if not parameter.requires_grad:
            continue
        tower = next((prefix for prefix in towers if name.startswith(prefix)), None)
        if tower is None:
            lr_scale, module = 1.0, name.split(".")[0]
        else:
            inside, module = name.removeprefix(tower), "backbone"
            lr_scale = _rate_inside(towers[tower], inside, optim)
        decay_scale = float(decays(name, parameter.ndim, tokens=optim.decay_tokens))
        frozen_steps = frozen_last_layer if "last_layer" in name.split(".") else 0
        groups.setdefault((lr_scale, decay_scale, module, frozen_steps), []).append((name, parameter))
    return [
        ParamGroup(tuple(name for name, _ in members), tuple(parameter for _, parameter in members), *treatment)
        for treatment, members in groups.items()
    ]


def _rate_inside(network: VisionTransformer | ForeignNetwork, name: str, optim: OptimConfig) -> float:
    """Return the multiplier of the learning rate of a parameter of a network."""
    if isinstance(network, ForeignNetwork):
        above, projects = network.layers_above(name), network.projects_patches(name)
    else:
        above, projects = layers_above(name, len(network.blocks)), name.startswith("patch_embed.")
    return optim.layer_decay**above * (optim.patch_embed_lr if projects else 1.0)


def decays(name: str, dimensions: int, *, tokens: bool) -> bool:
    """Say whether weight decay acts on a parameter: on matrices and kernels, and on tokens and positions if asked to.

    Biases, norms, LayerScale and the logit scale have fewer than two dimensions.

    Args:
        name: with or without the prefixes of the modules around it.
        dimensions: of the parameter.
        tokens: decay registers, CLS, mask token and position tables.
    """
    return dimensions >= 2 and (tokens or name.split(".")[-1] not in TOKENS)


def layers_above(name: str, depth: int) -> int:
    """Count the layers between a parameter of a Vision Transformer and its output, for layer-wise decay.

    Args:
        name: inside the `VisionTransformer`.
        depth: number of its blocks.
    Returns:
        0 for the final norm and the head, 1 for the last block, `depth` for the first one, `depth` + 1 for what comes
        before the blocks: tokens, positions, patch projection and the norm after it.
    """
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return depth - int(block[1])
    entrance = name in TOKENS or name.startswith(("patch_embed.", "norm_pre."))
    return depth + 1 if entrance else 0
