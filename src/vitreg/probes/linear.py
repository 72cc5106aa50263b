"""Many linear classifiers trained side by side on frozen features: DINOv2's linear probe on ImageNet.

Learning rates times inputs give a grid of heads that share every batch; heads on the same input are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.probes.defaults import RATES
from vitreg.probes.rows import Rows, check_labels, chunks, read

MOMENTUM = 0.9
_ROWS = 4096  # images at a time, to predict


@dataclass(frozen=True, slots=True)
class Input:
    """A range of feature columns that some of the heads read.

    Args:
        blocks: the class tokens of the last so many blocks.
        mean: whether the mean of the last block's patch tokens follows.
    """

    blocks: int
    mean: bool
    columns: slice


def inputs(width: int, blocks: Sequence[int], *, mean: bool) -> tuple[Input, ...]:
    """Return the inputs of DINOv2's grid as column ranges of one row per image.

    A row holds the class tokens of the last max(blocks) blocks, the last block's last, then the mean of its patches.

    Args:
        width: D, of a token.
        blocks: how many blocks each; DINOv2: 1 and 4.
        mean: rows end with the mean of the patches, and every input exists with and without it.
    """
    end = max(blocks) * width
    kinds = (False, True) if mean else (False,)
    return tuple(
        Input(n, with_mean, slice(end - n * width, end + with_mean * width)) for n in blocks for with_mean in kinds
    )


class LinearHeads:
    """A grid of heads: every input with every learning rate, each of C classes.

    Minimises the sum of their cross-entropies by SGD with momentum and no weight decay; rates follow a cosine to 0.
    Weights begin as N(0, 0.01), biases as 0.

    >>> for head in heads:                                  # each of them alone
    ...     gradient = d(cross_entropy(head(x[:, columns]), labels)) / d(head)
    ...     momentum = 0.9 * momentum + gradient
    ...     head -= rate * batch / 256 * (1 + cos(pi * step / steps)) / 2 * momentum

    Args:
        kinds: what the heads read, from `inputs`.
        classes: C.
        rates: learning rates for a batch of 256 images.
        batch: images of a step, over all processes.
        steps: of the whole training.
    """

    def __init__(
        self,
        kinds: Sequence[Input],
        classes: int,
        *,
        rates: Sequence[float] = RATES,
        batch: int,
        steps: int,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if classes < 2 or batch < 1 or steps < 1 or not rates or min(rates) <= 0:
            raise ValueError(f"{classes} classes, batch {batch}, {steps} steps, rates {tuple(rates)}")
        self.kinds, self.rates, self.classes, self.steps = tuple(kinds), tuple(rates), classes, steps
        self.device = torch.device(device or "cpu")
        self._step = 0
        generator = torch.Generator().manual_seed(seed)
        rows = len(self.rates) * classes
        self._weights, self._biases = [], []
        for kind in self.kinds:
            drawn = 0.01 * torch.randn(rows, kind.columns.stop - kind.columns.start, generator=generator)
            self._weights.append(drawn.to(self.device))
            self._biases.append(torch.zeros(rows, device=self.device))
        self._momenta = [torch.zeros_like(v) for v in (*self._weights, *self._biases)]
        self._scale = torch.tensor(self.rates, device=self.device).repeat_interleave(classes) * batch / 256

    def __len__(self) -> int:
        """Count the heads."""
        return len(self.kinds) * len(self.rates)

    def __iter__(self) -> Iterator[tuple[Input, float]]:
        """Yield input and learning rate of every head."""
        for kind in self.kinds:
            for rate in self.rates:
                yield kind, rate

    def step(self, x: Float[Tensor, "B W"], labels: Int64[Tensor, " B"]) -> None:
        """Learn from one batch."""
        x, labels = x.to(self.device), labels.to(self.device)
        cosine = (1 + math.cos(math.pi * self._step / self.steps)) / 2
        rate = cosine * self._scale  # [R * C]
        count = len(self.kinds)
        for i, kind in enumerate(self.kinds):
            part = x[:, kind.columns]
            slopes = self._logits(x, i).softmax(-1)  # [B, R, C]
            slopes[torch.arange(len(x), device=self.device), :, labels] -= 1
            slopes = slopes.flatten(1).div_(len(x))
            for values, momentum, gradient, own in (
                (self._weights[i], self._momenta[i], slopes.T @ part, rate[:, None]),
                (self._biases[i], self._momenta[count + i], slopes.sum(0), rate),
            ):
                momentum.mul_(MOMENTUM).add_(gradient)
                values.addcmul_(own, momentum, value=-1)
        self._step += 1

    def logits(self, x: Float[Tensor, "B W"]) -> Float[Tensor, "H B C"]:
        """Return the logits of every head."""
        x = x.to(self.device)
        return torch.cat([self._logits(x, i).transpose(0, 1) for i in range(len(self.kinds))])

    def predict(self, features: Rows) -> Int64[Tensor, "H n"]:
        """Return the predicted class of every head for every image, on the CPU."""
        return torch.cat([self.logits(part).argmax(-1).cpu() for _, part in chunks(features, _ROWS)], 1)

    def fit(
        self,
        features: Rows,
        labels: Int64[Tensor, " n"],
        *,
        batch: int,
        seed: int = 0,
        advance: Callable[[int], None] | None = None,
    ) -> Self:
        """Train on features stored once: the protocol without its augmentation.

        Args:
            batch: images of a step, taken from successive random permutations of all images.
            advance: called with 1 after each step.
        Raises:
            UserError: for fewer than two images, labels outside 0 ... C - 1, one class only, or features not finite.
        """
        check_labels(features, labels, self.classes)
        for index in orders(len(labels), batch, self.steps, seed):
            self.step(read(features, index), labels[index])
            if advance is not None:
                advance(1)
        return self

    def _logits(self, x: Float[Tensor, "B W"], i: int) -> Float[Tensor, "B R C"]:
        logits = torch.addmm(self._biases[i], x[:, self.kinds[i].columns], self._weights[i].T)
        return logits.unflatten(1, (len(self.rates), self.classes))


def orders(count: int, batch: int, steps: int, seed: int) -> Iterator[Int64[Tensor, " batch"]]:
    """Yield the images of each step from successive permutations, so all are seen equally often."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]
