"""Replace tokens of a class at every block's output: by zero, the dataset mean, noise of matched moments, or another
image's token.

Zeroing alone misleads: it feeds the model inputs it has never seen. Mean, noise and shuffle remove only what a token
holds about this image (Parodi et al. 2026; Sun et al. 2024, "Fix-Reg-Mean"). So all four are reported together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.backbones.edits import Edit, Place

Kind = Literal["zero", "mean", "noise", "shuffle"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class TokenBank:
    """Statistics and samples of the tokens of a class at every block's output, from some images.

    Tokens that differ by role, such as the registers, are kept apart in slots; outliers share one.

    Args:
        slots: how many.

    Attributes:
        mean_, deviation_: of each channel, float32 [L, slots, D].
        count: tokens seen in each slot.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.count = torch.zeros(slots, dtype=torch.float64)
        self._mean: Tensor | None = None  # float64 [L, slots, D]
        self._square: Tensor | None = None  # sums of squared deviations, likewise
        self._pool: list[list[tuple[int, Tensor]]] = [[] for _ in range(slots)]  # image and its token [L, D], by slot

    def partial_fit(
        self, tokens: Float[Tensor, "L T D"], slots: Int64[Tensor, "T"], images: Int64[Tensor, "T"]
    ) -> TokenBank:
        """Add the outputs of all L blocks at T tokens, with the slot and the image of each.

        All tokens count for the moments; the first token of each image and slot is kept to stand in for others. The
        tokens of an image must come in one call.
        """
        tokens, slots, images = tokens.detach().cpu().float(), slots.cpu(), images.cpu()
        if self._mean is None or self._square is None:
            shape = (tokens.shape[0], self.slots, tokens.shape[2])
            self._mean, self._square = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        for slot in range(self.slots):
            own = (slots == slot).nonzero().flatten()
            if not len(own):
                continue
            part = tokens[:, own].double()
            mean = part.mean(1)
            self._merge(slot, len(own), mean, (part - mean[:, None]).square().sum(1))
            seen: set[int] = set()
            for index in own.tolist():
                image = int(images[index])
                if image not in seen:
                    seen.add(image)
                    self._pool[slot].append((image, tokens[:, index].clone()))
        return self

    def over(self, gather: Callable[[Any], list[Any]]) -> TokenBank:
        """Return the bank of all processes together; `gather` is `Processes.gather`."""
        whole = TokenBank(self.slots)
        for count, mean, square, pool in gather((self.count, self._mean, self._square, self._pool)):
            if mean is None:
                continue
            if whole._mean is None:
                whole._mean, whole._square = torch.zeros_like(mean), torch.zeros_like(square)
            for slot in range(self.slots):
                if count[slot]:
                    whole._merge(slot, float(count[slot]), mean[:, slot], square[:, slot])
                whole._pool[slot] = sorted(whole._pool[slot] + pool[slot], key=lambda pair: pair[0])
        return whole

    @property
    def mean_(self) -> Float[Tensor, "L slots D"]:
        """Mean of each channel."""
        return self._fitted(self._mean).float()

    @property
    def deviation_(self) -> Float[Tensor, "L slots D"]:
        """Standard deviation of each channel."""
        return (self._fitted(self._square) / self.count[:, None]).sqrt().float()

    def values(
        self, kind: Kind, slots: Int64[Tensor, "T"], images: Int64[Tensor, "T"], *, seed: int = 0
    ) -> Float[Tensor, "L T D"]:
        """Return what T tokens are replaced by at every block's output.

        Draws depend only on the seed and the image's number. With "shuffle" a token is replaced by one token of another
        image at all blocks; all slots of an image use the same other image if every image has all slots.

        Args:
            images: numbers of images that are not among those of the bank.
        Raises:
            ValueError: for a slot without a token in the bank.
        """
        mean = self.mean_
        if len(slots) and not bool((self.count[slots] > 0).all()):
            raise ValueError("no token of this slot was seen, so nothing can stand in for it")
        if kind == "zero":
            return torch.zeros(len(mean), len(slots), mean.shape[2])
        if kind == "mean":
            return mean[:, slots]
        result = torch.zeros(len(mean), len(slots), mean.shape[2])
        for image in images.unique().tolist():
            own = (images == image).nonzero().flatten()
            draw = np.random.default_rng([seed, image])
            if kind == "noise":
                noise = draw.standard_normal((len(mean), len(own), mean.shape[2]), dtype=np.float32)
                result[:, own] = mean[:, slots[own]] + self.deviation_[:, slots[own]] * torch.from_numpy(noise)
                continue
            orders: dict[int, list[int]] = {}
            for size in sorted({len(pool) for pool in self._pool}):
                orders[size] = np.random.default_rng([seed, image, size]).permutation(size).tolist()
            taken = [0] * self.slots
            for index in own.tolist():
                slot = int(slots[index])
                pool = self._pool[slot]
                result[:, index] = pool[orders[len(pool)][taken[slot] % len(pool)]][1]
                taken[slot] += 1
        return result

    def _merge(self, slot: int, count: float, mean: Tensor, square: Tensor) -> None:
        assert self._mean is not None
        assert self._square is not None
        total = self.count[slot] + count
        shift = mean - self._mean[:, slot]
        self._square[:, slot] += square + shift.square() * self.count[slot] * count / total
        self._mean[:, slot] += shift * count / total
        self.count[slot] = total

    def _fitted(self, value: Tensor | None) -> Tensor:
        if value is None:
            raise ValueError("no tokens seen")
        return value


def replacing(images: Int64[Tensor, "T"], tokens: Int64[Tensor, "T"], values: Float[Tensor, "L T D"]) -> Sequence[Edit]:
    """Return edits, one for each block, that replace T tokens of a batch by `values`.

    Args:
        images: place of each token's image in the batch.
        tokens: place of each token in the sequence.
    """
    return [Edit("block", layer, partial(_put, images, tokens, own)) for layer, own in enumerate(values)]


def _put(images: Tensor, tokens: Tensor, values: Tensor, hidden: Tensor, _place: Place) -> Tensor:
    changed = hidden.clone()
    changed[images.to(hidden.device), tokens.to(hidden.device)] = values.to(hidden)
    return changed
