"""What a scan runs over: photographs of a source, or a tensor that is already prepared for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.data import Batch, ImageSource, stream
from vitreg.data.views.transforms import Policy
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.records import Skipped

Images = str | Path | Sequence[str | Path] | Tensor
KEPT_OF_A_STREAM = 8  # images behind a URL come once, so the page shows the first ones


class Batches(Protocol):
    """One pass over the images, and single images once more."""

    size: tuple[int, int]
    planned: int | None
    notes: tuple[str, ...]  # on images that were left out unread

    @property
    def skipped(self) -> list[Skipped]:
        """What gave no picture so far."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """The same for the same images in the same batches; None if an interrupted pass over them cannot go on later."""
        ...

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        """Begin at an image, and not at 0; what an earlier pass skipped stays listed."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def shows(self, index: int) -> bool:
        """Whether `again` can give this image."""
        ...

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        """One image once more: what the patches cover for the eye uint8 [h, w, 3], and for the model [1, C, H, W]."""
        ...


def batches_of(
    images: Images,
    backbone: Backbone,
    group: Processes,
    *,
    size: int | tuple[int, int] | None = None,
    policy: Policy = "resize",
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
) -> Batches:
    """Prepare a pass.

    Raises:
        UserError: for paths that do not exist or hold no image, a tensor of another shape than [n, C, H, W], or a model
            that photographs cannot be prepared for.
    """
    if isinstance(images, Tensor):
        return _OfTensor(images, backbone, batch_size or 16, limit)
    if not isinstance(images, str | Path) and not all(isinstance(path, str | Path) for path in images):
        raise UserError(f"images are paths, or one floating point tensor [n, {backbone.anatomy.channels}, H, W].")
    square = (size, size) if isinstance(size, int) else size
    return _OfSource(images, backbone, group, square, policy, batch_size, workers, limit)


def automatic_batch_size(backbone: Backbone, size: tuple[int, int]) -> int:
    """As many images as keep about 4000 tokens (CPU: caches) or 64 000 (GPU: occupancy) in flight."""
    tokens = backbone.layout(size).length
    return max(1, min((64_000 if backbone.device.type == "cuda" else 4_200) // tokens, 256))


def fitted(size: tuple[int, int], backbone: Backbone, policy: Policy) -> tuple[int, int]:
    """The image size after `Backbone.fit`."""
    patch, after = backbone.anatomy.patch, backbone.fit(torch.empty(1, 1, *size), policy)
    if after.shape[2] * after.shape[3] < 4 * patch[0] * patch[1]:
        raise UserError(
            f"images of {size[0]}x{size[1]} px hold fewer than 4 patches of {patch[0]}x{patch[1]}; choose a larger size."
        )
    return after.shape[2], after.shape[3]


class _OfSource:
    """This process's share of a source."""

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        backbone: Backbone,
        group: Processes,
        size: tuple[int, int] | None,
        policy: Policy,
        batch_size: int | None,
        workers: int | None,
        limit: int | None,
    ) -> None:
        preprocess = backbone.prepared(size)
        source = ImageSource([images] if isinstance(images, str | Path) else list(images))
        self._backbone = backbone
        self._policy: Policy = policy
        self.size = fitted(preprocess.size, backbone, policy)
        self._stream = stream(
            source,
            preprocess,
            batch_size or automatic_batch_size(backbone, self.size),
            rank=group.rank,
            world=group.world,
            workers=workers,
            min_side=min(backbone.anatomy.patch),
            limit=limit,
        )
        total, self.notes = source.length, source.notes
        self.planned = min(total, limit) if total is not None and limit else total
        self._kept: dict[int, Tensor] = {}

    @property
    def skipped(self) -> list[Skipped]:
        return self._stream.skipped

    @property
    def fingerprint(self) -> str | None:
        return f"{self._stream.source.fingerprint()} {self._stream.batch_size} {self._stream.preprocess}"

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        self._stream.go_on(first, skipped)
        if self._stream.source.behind_urls:
            self.notes = (
                *self.notes,
                "The scan was resumed; what lies behind URLs was taken to be what it was before.",
            )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._stream:
            batch = replace(batch, pixels=self._backbone.fit(batch.pixels, self._policy))
            if self._stream.source.length is None:
                for index, pixels in zip(batch.indices.tolist(), batch.pixels, strict=True):
                    if len(self._kept) < KEPT_OF_A_STREAM:
                        self._kept[index] = pixels[None].clone()
            yield batch

    def shows(self, index: int) -> bool:
        return self._stream.source.length is not None or index in self._kept

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        preprocess = self._stream.preprocess
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = self._backbone.fit(preprocess(self._stream.source[index].open())[None], self._policy)
        rows, cols = self._backbone.covered(self.size)
        return np.asarray(preprocess.unnormalise(pixels[0, :, :rows, :cols])), pixels


class _OfTensor:
    """Images that are already what the model takes."""

    def __init__(self, images: Tensor, backbone: Backbone, batch_size: int, limit: int | None) -> None:
        channels = backbone.anatomy.channels
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise UserError(
                f"images must be a floating point tensor [n, {channels}, H, W], not {images.dtype} {list(images.shape)}."
            )
        self._images, self._batch_size, self._backbone = images[:limit], batch_size, backbone
        self.size = (images.shape[2], images.shape[3])
        self.planned: int | None = len(self._images)
        self.skipped: list[Skipped] = []
        self.notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str | None:
        return None

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        raise AssertionError("a tensor has no fingerprint, so its pass is never kept")

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._images), self._batch_size):
            pixels = self._images[start : start + self._batch_size]
            indices = torch.arange(start, start + len(pixels))
            yield Batch(indices, tuple(f"image {i}" for i in indices.tolist()), pixels)

    def shows(self, index: int) -> bool:
        return True

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        pixels = self._images[index : index + 1].float()
        rows, cols = self._backbone.covered(self.size)
        return shown_stretched(pixels[..., :rows, :cols])[0], pixels


def shown_stretched(images: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Make pictures of images whose normalisation is unknown, each stretched to its own range.

    Where there are not three channels, their mean is shown in grey.
    """
    x = images.detach().float().cpu()
    x = x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return ((x - low) / (high - low).clamp_min(1e-6) * 255).byte().permute(0, 2, 3, 1).numpy()
