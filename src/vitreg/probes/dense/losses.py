"""Losses of dense heads: cross-entropy with ignored pixels, and the scale-invariant depth loss in two parts.

Depth 0 means that it is not known there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.data.sets.settings import IGNORE

_EPS = 1e-3  # metres, added before the logarithm
_MEAN_WEIGHT = 0.15
_STEPS = (1, 2, 4, 6)  # the official gradient loss looks at every pixel, and at every 2nd, 4th and 6th


def pixel_cross_entropy(logits: Float[Tensor, "B C H W"], labels: Int64[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Cross-entropy of every pixel, 0 where the label is 255, averaged over all pixels as mmsegmentation does.

    >>> loss += -log(softmax(logits[b, :, i, j])[labels[b, i, j]]) / (B * H * W)      # if labels[b, i, j] != 255
    """
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()


def sig_loss(
    depth: Float[Tensor, "B H W"], truth: Float[Tensor, "B H W"], *, warming_up: bool = False
) -> Float[Tensor, ""]:
    """Scale-invariant loss of depth (Eigen et al. 2014; the form of DINOv2's NYUd head, SigLoss).

    >>> g = [log(d + 1e-3) - log(t + 1e-3) for d, t in zip(depth, truth) if t > 0]
    >>> loss = sqrt(variance(g) + 0.15 * mean(g) ** 2)                                # the variance over len(g) - 1

    Args:
        depth, truth: in metres, truth 0 where it is not known.
        warming_up: without the variance, as the official code runs its first 100 steps.
    Returns:
        the loss over all pixels of the batch together; 0 where fewer than two are known.
    """
    known = truth > 0
    if int(known.sum()) < 2:
        return depth.sum() * 0
    g = torch.log(depth[known] + _EPS) - torch.log(truth[known] + _EPS)
    if warming_up:
        return math.sqrt(_MEAN_WEIGHT) * g.mean().abs()  # the square root of a square has no slope at 0, this has
    return (g.var() + _MEAN_WEIGHT * g.mean() ** 2).clamp_min(torch.finfo(g.dtype).tiny).sqrt()


def gradient_loss(depth: Float[Tensor, "B H W"], truth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """How much the slopes of log depth differ, between pixels two apart in each direction and at four scales.

    >>> for s in (1, 2, 4, 6):
    ...     g = (log(depth + 1e-3) - log(truth + 1e-3))[:, ::s, ::s]                  # where truth > 0
    ...     loss += (sum |g[b, i, j] - g[b, i + 2, j]| + sum |g[b, i, j] - g[b, i, j + 2]|) / count(truth[:, ::s, ::s] > 0)

    This is what the official GradientLoss intends. The official code slices the batch instead of the image, so with two
    images per GPU, as its heads were trained, it is always 0.
    """
    difference = torch.log(depth + _EPS) - torch.log(truth + _EPS)
    known = truth > 0
    total = depth.sum() * 0
    for step in _STEPS:
        g, k = difference[:, ::step, ::step], known[:, ::step, ::step]
        slopes = _slopes(g, k) + _slopes(g.transpose(1, 2), k.transpose(1, 2))
        total = total + slopes / k.sum().clamp_min(1)
    return total


def _slopes(g: Float[Tensor, "B h w"], known: Bool[Tensor, "B h w"]) -> Float[Tensor, ""]:
    both = known[:, :-2] & known[:, 2:]
    return torch.where(both, (g[:, :-2] - g[:, 2:]).abs(), 0.0).sum()
