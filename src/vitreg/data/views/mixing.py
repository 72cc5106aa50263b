"""Mixup and CutMix of a batch on the device, drawn per group of consecutive samples.

The mixing is timm's. Its draws depend only on the step and the group, not on how many processes share the batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.data.views.augment import foreign_draws
from vitreg.data.views.settings import MixConfig
from vitreg.errors import UserError


class Draws(Protocol):
    """The generators of a step: a recipe's `Progress`."""

    def generator(self, purpose: str, group: int = 0) -> torch.Generator:
        """Return the generator of one purpose and one group."""
        ...

    def groups(self, samples: int, size: int) -> range:
        """Number the groups that the batch is made of."""
        ...


def mix(
    images: Float[Tensor, "B 3 h w"],
    targets: Int64[Tensor, " B"],
    classes: int,
    config: MixConfig,
    progress: Draws,
    group: int,
) -> tuple[Float[Tensor, "B 3 h w"], Float[Tensor, "B C"]]:
    """Mix every image with another of its group, and their labels equally.

    The first image of a group is mixed with the last one, the second with the last but one, and so on.

    Args:
        images: normalised, on any device; they are left as they are.
        targets: class numbers below `classes`.
        group: consecutive samples that are mixed among themselves, and by one draw in mode "batch".
    Returns:
        the mixed images, and the share of every class in them; the shares of an image add up to 1.
    Raises:
        UserError: if a group is odd, so that an image would have no partner.
        ValueError: if the batch is not made of whole groups.
    """
    from timm.data.mixup import Mixup, mixup_target

    if config.prob == 0 or config.mixup == config.cutmix == 0:
        return images, mixup_target(targets, classes, smoothing=config.smoothing)
    if group % 2:
        raise UserError(f"Mixup and CutMix mix pairs, so a group of {group} images is odd by one; make group even.")
    mixup = Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.prob,
        switch_prob=config.switch_prob,
        mode=config.mode,
        label_smoothing=config.smoothing,
        num_classes=classes,
    )
    mixed, shares = [], []
    for number, some, labels in zip(
        progress.groups(len(images), group), images.split(group), targets.split(group), strict=True
    ):
        seed = int(torch.randint(2**32, (), generator=progress.generator("mix", number)))
        with foreign_draws(seed):
            image, share = mixup(some.clone(), labels)  # timm writes into the images it is given
        mixed.append(image)  # [group, 3, h, w]
        shares.append(share)  # [group, C]
    return torch.cat(mixed), torch.cat(shares)
