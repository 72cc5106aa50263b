"""Retrieval of captions for images and images for captions by the similarity of their features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def recall(
    images: Float[Tensor, "I E"],
    captions: Float[Tensor, "T E"],
    image_of: Int64[Tensor, " T"],
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Return recall at k in both directions, in percent.

    An image is found if one of its captions is among the k most similar; a caption if its image is. Ties and NaN count
    as misses, so uninformative features find nothing.

    Args:
        image_of: for every caption the index of its image; every image has at least one caption.
    """
    similarity = F.normalize(images.float(), dim=-1) @ F.normalize(captions.float(), dim=-1).T  # [I, T]
    own = torch.arange(len(images), device=image_of.device)[:, None] == image_of[None]  # [I, T]
    # Rank of the best own caption: how many others are not less similar than it.
    best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)  # [I, 1]
    to_text = (~(similarity.masked_fill(own, -torch.inf) < best)).sum(1)  # [I]
    right = similarity.T[torch.arange(len(captions)), image_of][:, None]  # [T, 1]
    of_caption = similarity.T  # [T, I]
    to_image = (~(of_caption < right)).sum(1) - 1  # [T], without the right one itself
    result = {}
    for k in ks:
        result[f"image_to_text_r{k}"] = 100 * (to_text < k).float().mean().item()
        result[f"text_to_image_r{k}"] = 100 * (to_image < k).float().mean().item()
    return result
