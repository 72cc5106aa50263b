"""Zero-shot classification: each class is the mean direction of sentences about it, and an image gets the nearest
class.

The protocol of CLIP (Radford et al. 2021), which the paper's Table 2b follows. Nothing is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

LOGIT_SCALE = 100.0


def classifier_of(sentences: Float[Tensor, "C T E"]) -> Float[Tensor, "C E"]:
    """Return one direction of length 1 for each class: normalise, take the mean over templates, normalise again.

    Args:
        sentences: features of T sentences about each of C classes.
    """
    return F.normalize(F.normalize(sentences.float(), dim=-1).mean(1), dim=-1)


def logits_of(images: Float[Tensor, "B E"], classifier: Float[Tensor, "C E"]) -> Float[Tensor, "B C"]:
    """Return 100 times the cosine of each image to each class."""
    return LOGIT_SCALE * F.normalize(images.float(), dim=-1) @ classifier.T


def ranks_of(logits: Float[Tensor, "B C"], truth: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Count the other classes that are not less likely than the true one: 0 is top-1, below 5 top-5.

    Ties and NaN count as errors, else constant features would always be right.
    """
    own = logits.gather(1, truth[:, None])  # [B, 1]
    return (~(logits < own)).sum(1) - 1


class RankTally:
    """Ranks of the true class over a pass, in constant memory.

    Attributes:
        counts: int64 [3, C], images of each class, those right at top-1, those at top-5.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(3, classes, dtype=torch.int64)

    def add(self, ranks: Int64[Tensor, " B"], truth: Int64[Tensor, " B"]) -> None:
        """Count a batch."""
        for row, right in enumerate((torch.ones_like(ranks, dtype=torch.bool), ranks < 1, ranks < 5)):
            self.counts[row] += torch.bincount(truth[right], minlength=self.counts.shape[1])

    def metrics(self) -> dict[str, float]:
        """Return top1, top5 and mean_per_class (top-1, over classes that have images), in percent."""
        images, first, fifth = self.counts.double()
        total = images.sum().clamp(min=1)
        seen = images > 0
        return {
            "top1": 100 * (first.sum() / total).item(),
            "top5": 100 * (fifth.sum() / total).item(),
            "mean_per_class": 100 * (first[seen] / images[seen]).mean().item() if seen.any() else 0.0,
        }
