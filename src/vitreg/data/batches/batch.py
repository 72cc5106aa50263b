"""One training batch: views of the same samples, with their targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """B samples in order.

    Args:
        views: stacks of crops of one size each, [V, B, 3, h, w]: view v of sample b. Bytes as the loader gives them,
            normalised floats after `on`. Supervised training has one stack of one view; multi-crop has two stacks.
        targets: class indices [B], multi-hot labels [B, C], token ids of captions [B, L], classes of pixels [B, h, w],
            numbers of patches [B, rows, cols, C], or None.
        names: of the samples, for messages.
        first: place of the first sample in the global batch of the step.
    """

    views: tuple[UInt8[Tensor, "V B 3 h w"] | Float[Tensor, "V B 3 h w"], ...]
    targets: Int64[Tensor, "B ..."] | UInt8[Tensor, "B h w"] | Float[Tensor, "B ..."] | None = None
    names: tuple[str, ...] = ()
    first: int = 0

    def __len__(self) -> int:
        """B, the number of samples."""
        return self.views[0].shape[1]

    def on(self, device: torch.device, mean: tuple[float, float, float], std: tuple[float, float, float]) -> TrainBatch:
        """Move to a device and turn bytes into normalised floats there."""
        shift, scale = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, std))

        def convert(view: Tensor) -> Tensor:
            view = view.to(device, non_blocking=True)
            return view if view.is_floating_point() else (view.float().div_(255).sub_(shift)).div_(scale)

        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return TrainBatch(tuple(convert(view) for view in self.views), targets, self.names, self.first)

    def split(self, size: int) -> list[TrainBatch]:
        """Cut into micro-batches of at most `size` samples, in order."""
        return [
            TrainBatch(
                tuple(view[:, start : start + size] for view in self.views),
                None if self.targets is None else self.targets[start : start + size],
                self.names[start : start + size],
                self.first + start,
            )
            for start in range(0, len(self), size)
        ]
