"""Every loss that a recipe trains with, as a pure function: the docstring is the naive loop, and a test runs that loop.

All are computed in float32 whatever autocast says, and are means over this process's samples, so that averaging over
processes gives the loss of the global batch. `vitreg.recipes.self_distill.targets` computes the teacher's targets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.errors import UserError
from vitreg.machine.reduce import gather_over_processes, rank

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Compute a function of tensors in float32 (float64 stays), without autocast.

    In half precision the 1e-8 of KoLeo is 0, and 131072 exponentials do not add up.
    """

    @functools.wraps(function)
    def compute(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            widened = {name: _widen(value) for name, value in kwargs.items()}
            return cast(Callable[..., R], function)(*(_widen(value) for value in args), **widened)

    return compute


def _widen(value: object) -> object:
    """Return half-precision tensors in float32, and everything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


@full_precision
def soft_cross_entropy(logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Cross-entropy with a distribution over classes, as Mixup, CutMix and label smoothing leave it (DeiT-III on 21k).

    >>> for b in range(B):
    ...     loss += -sum(targets[b, c] * log(softmax(logits[b])[c]) for c in range(C)) / B
    """
    return soft_entropy(logits, targets).mean()


@full_precision
def binary_cross_entropy(logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """One yes-or-no question per class: does the image show any of it (DeiT-III on ImageNet-1k)?

    >>> for b in range(B):
    ...     for c in range(C):
    ...         p = sigmoid(logits[b, c])
    ...         loss += -log(p if targets[b, c] > 0 else 1 - p) / (B * C)

    Both classes of a mixed pair are positive, however small their share. Targets must not be smoothed: all would be
    above 0.
    """
    return F.binary_cross_entropy_with_logits(logits, (targets > 0).to(logits.dtype))


@full_precision
def clip_loss(
    images: Float[Tensor, "n E"], texts: Float[Tensor, "n E"], scale: Float[Tensor, "*one"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Find the text of each image and the image of each text among those of all processes (CLIP, OpenCLIP).

    >>> for i in range(N):                                              # N: of the global batch
    ...     loss += -log(softmax([scale * images[i] @ texts[j] for j in range(N)])[i]) / (2 * N)
    ...     loss += -log(softmax([scale * texts[i] @ images[j] for j in range(N)])[i]) / (2 * N)

    A process computes the terms of its own n rows against all N columns, so memory grows with n * N and not with N * N.
    Averaged over processes, as DDP does, all gradients are those of the loop.

    Args:
        images: of length 1.
        texts: of length 1, in the order of the images.
        scale: one number, the inverse temperature.
    Returns:
        the loss, and the share of this process's images whose own text is nearest (without gradient).
    """
    own = rank() * len(images) + torch.arange(len(images), device=images.device)  # [n], columns of the own partners
    by_image = scale * images @ gather_over_processes(texts).T  # [n, N]
    by_text = scale * texts @ gather_over_processes(images).T  # [n, N]
    loss = (F.cross_entropy(by_image, own) + F.cross_entropy(by_text, own)) / 2
    return loss, (by_image.argmax(1) == own).float().mean()


@full_precision
def soft_entropy(
    student: Float[Tensor, "*rows K"], teacher: Float[Tensor, "*rows K"], temperature: float = 1.0
) -> Float[Tensor, "*rows"]:
    """Cross-entropy of each row of logits with its target distribution.

    >>> for i in range(rows):
    ...     H[i] = -sum(teacher[i, k] * log(softmax(student[i] / temperature)[k]) for k in range(K))
    """
    return -(teacher * F.log_softmax(student / temperature, dim=-1)).sum(-1)


@full_precision
def cls_losses(
    student: Float[Tensor, "V B K"], teacher: Float[Tensor, "G B K"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Each student crop predicts the teacher's output for the other global crops of its image (DINO, DINOv2).

    >>> pairs = [(v, g) for v in range(V) for g in range(G) if v != g]   # never a crop with itself
    >>> for v, g in pairs:
    ...     term = sum(H(teacher[g, b], student[v, b]) for b in range(B)) / B / len(pairs)
    ...     if v < G: global_ += term
    ...     else:     local += term

    With 2 global crops `global_` is what DINOv2's code gets by swapping the teacher's crops, and len(pairs) is its
    denominator n_g * n_l + n_g * (n_g - 1). The loss of DINO is the sum of both.

    Args:
        student: logits of V crops, of which the first G are the global ones.
        teacher: distributions for the global crops.
    Returns:
        the loss of the local crops (0 where there are none) and that of the global crops.
    Raises:
        ValueError: if there is no pair of different crops.
    """
    (V, B), G = student.shape[:2], len(teacher)
    pairs = G * (V - 1)
    if V < G or not pairs:
        raise ValueError(f"{V} crops of the student and {G} of the teacher leave no pair to compare")
    # Cross-entropy is linear in the target: one with the sum of the targets is the sum of theirs.
    others = torch.stack([torch.cat([teacher[:g], teacher[g + 1 :]]).sum(0) for g in range(G)])  # [G, B, K]
    global_ = soft_entropy(student[:G], others, temperature).sum()
    local = soft_entropy(student[G:], teacher.sum(0).expand(V - G, -1, -1), temperature).sum()
    return local / (B * pairs), global_ / (B * pairs)


@full_precision
def ibot_loss(
    student: Float[Tensor, "M K"],
    teacher: Float[Tensor, "M K"],
    temperature: float,
    weights: Float[Tensor, "M"],
    crops: int,
) -> Float[Tensor, ""]:
    """The student predicts, for each hidden patch, the output of the teacher, which sees it (Zhou et al. 2022, iBOT;
    DINOv2).

    >>> for m in range(M):                                              # hidden patches of all crops
    ...     loss += weights[m] * H(teacher[m], student[m]) / crops

    Args:
        weights: 1 / (hidden patches of the same crop), see `masking.masks_weight`.
        crops: all global crops, also those with nothing hidden: officially they count in the mean, with a loss of 0.
    """
    return (weights * soft_entropy(student, teacher, temperature)).sum() / crops


@full_precision
def koleo(x: Float[Tensor, "B D"], group: int | None = None, eps: float = 1e-8) -> Float[Tensor, ""]:
    """Spread features apart (Sablayrolles et al. 2019; DINOv2).

    >>> for i in range(B):                                              # x̂: rows of x, L2-normalised
    ...     j = argmax(x̂[i] @ x̂[j] for j in the group of i if j != i)
    ...     loss += -log(‖x̂[i] - x̂[j] + eps‖ + eps) / B

    Args:
        group: consecutive rows among which neighbours are sought, officially those of one GPU; None takes all rows.
    Raises:
        UserError: if a group has no two rows.
        ValueError: if x is not made of whole groups.
    """
    group = len(x) if group is None else group
    if group < 2:
        raise UserError(
            f"KoLeo keeps a sample away from its nearest neighbour, and a group of {group} has none; make group 2 or more."
        )
    if len(x) % group:
        raise ValueError(f"{len(x)} rows are no whole groups of {group}")
    x = F.normalize(x, dim=-1).unflatten(0, (-1, group))  # [G, g, D]
    with torch.no_grad():
        similar = x @ x.mT  # [G, g, g]
        similar.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        nearest = similar.argmax(-1, keepdim=True)  # [G, g, 1]
    neighbour = x.take_along_dim(nearest, dim=1)  # [G, g, D]
    return -(F.pairwise_distance(x, neighbour, eps=eps) + eps).log().mean()


@full_precision
def register_decorrelation(registers: Float[Tensor, "B R D"]) -> Float[Tensor, ""]:
    """Decorrelate the registers of a sample: mean squared cosine of all pairs (ours).

    >>> for b in range(B):
    ...     for i in range(R):
    ...         for j in range(R):
    ...             if i != j: loss += cos(registers[b, i], registers[b, j]) ** 2 / (B * R * (R - 1))

    It is 0 where there are no two registers.
    """
    R = registers.shape[1]
    if R < 2:
        return registers.new_zeros(())
    x = F.normalize(registers, dim=-1)  # [B, R, D]
    i, j = torch.triu_indices(R, R, offset=1, device=x.device)
    return (x[:, i] * x[:, j]).sum(-1).square().mean()  # over [B, R * (R - 1) / 2]


def patchify(images: Float[Tensor, "B 3 H W"], patch: int | tuple[int, int]) -> Float[Tensor, "B P C"]:
    """Cut images into patches, row-major, each as a row of C = p * p * 3 numbers in the order (row, column, colour) (MAE).

    >>> for r in range(H // p):
    ...     for c in range(W // p):
    ...         patches[:, r * (W // p) + c] = images[:, :, r*p:(r+1)*p, c*p:(c+1)*p].permute(0, 2, 3, 1).flatten(1)

    Args:
        patch: pixels of a side, one number or (height, width).
    Raises:
        ValueError: if a side of the images is not a multiple of the patch.
    """
    height, width = (patch, patch) if isinstance(patch, int) else patch
    if images.shape[2] % height or images.shape[3] % width:
        raise ValueError(f"images of {images.shape[2]}x{images.shape[3]} pixels are no whole {height}x{width} patches")
    cut = images.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # [B, 3, rows, p, cols, q]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [B, rows * cols, p * q * 3]


@full_precision
def mae_loss(
    prediction: Float[Tensor, "B P C"],
    pixels: Float[Tensor, "B P C"],
    hidden: Bool[Tensor, "B P"],
    *,
    norm_pixels: bool = True,
) -> Float[Tensor, ""]:
    """Mean squared error of the pixels of hidden patches (He et al. 2022, MAE).

    >>> for b, i in the places where hidden:
    ...     wanted = (pixels[b, i] - mean(pixels[b, i])) / sqrt(var(pixels[b, i]) + 1e-6)
    ...     loss += mean((prediction[b, i] - wanted) ** 2) / number of hidden patches

    Args:
        pixels: from `patchify`.
        norm_pixels: compare with pixels standardised inside each patch, as above; otherwise with the pixels themselves.
    """
    if norm_pixels:
        variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)  # unbiased, as officially
        pixels = (pixels - mean) / (variance + 1e-6).sqrt()
    error = (prediction - pixels).square().mean(-1)  # [B, P]
    return (error * hidden).sum() / hidden.sum()
