"""Which patches are hidden: blocks for iBOT (DINOv2), single patches for MAE. Pure functions of a generator.

Masks are drawn on the CPU, in the main process, so that they are known before the device needs them.
"""

from __future__ import annotations

import math
from random import Random
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.errors import UserError
from vitreg.recipes.settings.masks import MaskConfig

SMALLEST_BLOCK = 4  # patches aimed at
FLATTEST_BLOCK = 0.3  # rows / cols aimed at, and its inverse for the tallest
ATTEMPTS = 10  # to place a block before the mask is left as it is


class Draws(Protocol):
    """The generators that drawing needs; `vitreg.recipes.recipe.Progress` has them."""

    def generator(self, purpose: str, group: int = 0) -> torch.Generator:
        """Return the CPU generator of one purpose and one group of samples."""
        ...

    def groups(self, samples: int, size: int) -> range:
        """Return the numbers of the groups that a batch is made of."""
        ...


def draw_block_masks(
    crops: int, grid: tuple[int, int], config: MaskConfig, generator: torch.Generator
) -> Bool[Tensor, "C P"]:
    """Draw the hidden patches of the global crops of a group (iBOT; DINOv2).

    int(C * share) = n crops are masked. The range of ratios is cut into n equal intervals, and the i-th crop draws its
    ratio from the i-th; then crops are shuffled.

    Args:
        crops: C, of all samples of a group.
        grid: (rows, cols) of patches.
        generator: on the CPU; one number is taken from it.
    Returns:
        masks on the CPU, True where hidden, patches row-major.
    Raises:
        UserError: if no crop would have hidden patches, or the grid is too small for blocks.
    """
    rows, cols = grid
    masked = int(crops * config.share)
    if not masked:
        raise UserError(
            f"a mask share of {config.share:g} of {crops} crops hides nothing; make the group larger or raise masks.share."
        )
    if rows < 2 or cols < 2:
        raise UserError(
            f"a block of hidden patches is smaller than the crop on both sides, and a crop of {rows}x{cols} patches has "
            "no such block; make crops larger or patches smaller."
        )
    # Thousands of numbers one by one: Python's generator gives them ten times faster than torch's.
    random = Random(int(torch.randint(2**62, (), generator=generator)))
    low, high = config.ratio
    step = (high - low) / masked
    targets = [int(rows * cols * (low + step * (i + random.random()))) for i in range(masked)]
    masks = [block_mask(target, grid, random) for target in [*targets, *[0] * (crops - masked)]]
    random.shuffle(masks)
    return torch.from_numpy(np.stack(masks)).flatten(1)  # [C, P]


def block_mask(target: int, grid: tuple[int, int], random: Random) -> np.ndarray:
    """Hide rectangular blocks until `target` patches are hidden, or no further block fits (Bao et al. 2022, BEiT).

    Returns:
        bool [rows, cols], with at most `target` True, and rarely fewer.
    """
    rows, cols = grid
    mask = np.zeros(grid, dtype=bool)
    largest = rows // 2 * cols  # of one block
    hidden = 0
    while hidden < target:
        added = add_block(mask, min(target - hidden, largest), random)
        if not added:
            break
        hidden += added
    return mask


def add_block(mask: np.ndarray, most: int, random: Random) -> int:
    """Hide one block that adds 1 to `most` patches, and return how many it adds; 0 after ten misses."""
    rows, cols = mask.shape
    for _ in range(ATTEMPTS):
        area = random.uniform(SMALLEST_BLOCK, most)  # where fewer than 4 are left, from these up to 4
        aspect = math.exp(random.uniform(math.log(FLATTEST_BLOCK), -math.log(FLATTEST_BLOCK)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= cols:
            continue
        top, left = random.randint(0, rows - height), random.randint(0, cols - width)
        block = mask[top : top + height, left : left + width]
        added = block.size - int(block.sum())
        if 0 < added <= most:
            block[:] = True
            return added
    return 0


def masks_weight(masks: Bool[Tensor, "C P"]) -> Float[Tensor, "M"]:
    """Return 1 / (hidden patches of the same crop) of each hidden patch, crop by crop, so that crops count the same."""
    return (masks / masks.sum(-1, keepdim=True).clamp(min=1))[masks]


def keep_and_restore(
    samples: int, patches: int, ratio: float, generator: torch.Generator
) -> tuple[Int64[Tensor, "B K"], Int64[Tensor, "B P"]]:
    """Choose the patches of each sample that stay visible, all equally likely (He et al. 2022, MAE).

    Args:
        ratio: of the patches to hide; int(P * (1 - ratio)) stay.
    Returns:
        places of the K visible patches in random order; and for each patch its place in the sequence of visible, then
        hidden patches, which brings such a sequence back into order. It is K or more where a patch is hidden.
    Raises:
        UserError: if nothing would be hidden, or nothing visible.
    """
    kept = int(patches * (1 - ratio))
    if not 0 < kept < patches:
        raise UserError(
            f"hiding {ratio:g} of {patches} patches leaves {max(0, min(kept, patches))} visible; "
            "some must be visible and some hidden."
        )
    shuffled = torch.rand(samples, patches, generator=generator).argsort(dim=1)  # [B, P]
    return shuffled[:, :kept], shuffled.argsort(dim=1)


def draw_random_masks(
    samples: int, grid: tuple[int, int], ratio: float, group: int, progress: Draws
) -> Bool[Tensor, "B P"]:
    """Draw the hidden patches of a batch, as many in every sample (MAE).

    Args:
        samples: B, of the batch.
        grid: (rows, cols) of patches.
        ratio: of the patches that are hidden.
        group: consecutive samples drawn together, so that the draw does not depend on how the batch is shared out.
    Returns:
        masks on the CPU, True where hidden, patches row-major.
    Raises:
        UserError: if nothing would be hidden, or nothing visible.
        ValueError: if the batch is not made of whole groups.
    """
    masks: list[Tensor] = []
    for number in progress.groups(samples, group):
        keep, restore = keep_and_restore(group, grid[0] * grid[1], ratio, progress.generator("mask", number))
        masks.append(restore >= keep.shape[1])  # [g, P]
    return torch.cat(masks)
