"""The batches of a scan: photographs from a source, or tensors already prepared for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.data import Batch, ImageSource, stream
from vitreg.data.views.transforms import Policy
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.passes.given import Images, Prepared, given
from vitreg.passes.view import View, view_of, view_of_tensors
from vitreg.records import Skipped

KEPT_OF_A_STREAM = 8  # an image behind a URL can be read once only, so the page shows the first ones


class Batches(Protocol):
    """One pass over the images; single images can be read again."""

    size: tuple[int, int]
    planned: int | None
    notes: tuple[str, ...]  # on images left out before reading

    @property
    def skipped(self) -> list[Skipped]:
        """Images that could not be read so far."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Hash of the images and how they are batched; None if an interrupted pass over them cannot be resumed."""
        ...

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        """Begin at image `first` instead of 0; images skipped by an earlier pass stay listed."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def shows(self, index: int) -> bool:
        """Whether `again` can give this image."""
        ...

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        """Read one image again: the area the patches cover, uint8 [h, w, 3], and the model's input [1, C, H, W]."""
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
        UserError: for paths that do not exist or hold no image, a tensor whose shape is not [n, C, H, W], anything else
            that is not images, or a model that photographs cannot be prepared for.
    """
    found = given(images, backbone, workers)
    if size is not None and isinstance(found, Tensor | Prepared):
        raise UserError("a tensor is scanned at its own size; leave the size out, or resize the images.")
    if isinstance(found, Tensor):
        return _OfTensor(found[:limit], view_of_tensors(backbone, found, policy=policy, batch=batch_size), group)
    if isinstance(found, Prepared):
        view = view_of_tensors(backbone, found.first, policy=policy, batch=batch_size)
        return _OfPrepared(found, view, group, limit)
    square = (size, size) if isinstance(size, int) else size
    view = view_of(backbone, size=square, policy=policy, batch=batch_size)
    return _OfSource(found, view, group, workers, limit)


class _OfSource:
    """This process's share of a source."""

    def __init__(
        self,
        source: ImageSource,
        view: View,
        group: Processes,
        workers: int | None,
        limit: int | None,
    ) -> None:
        self._view, self.size = view, view.size
        self._stream = stream(
            source,
            view.pictures,
            view.batch,
            rank=group.rank,
            world=group.world,
            workers=workers,
            min_side=min(view.backbone.anatomy.patch),
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
        if self._stream.source.in_memory:
            return None
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
            batch = replace(batch, pixels=self._view.fit(batch.pixels))
            if self._stream.source.length is None:
                for index, pixels in zip(batch.indices.tolist(), batch.pixels, strict=True):
                    if len(self._kept) < KEPT_OF_A_STREAM:
                        self._kept[index] = pixels[None].clone()
            yield batch

    def shows(self, index: int) -> bool:
        return self._stream.source.length is not None or index in self._kept

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = self._view.fit(self._view.pictures(self._stream.source[index].open())[None])
        return self._view.shown(pixels)[0], pixels


class _OfTensor:
    """A tensor of images already prepared for the model."""

    def __init__(self, images: Tensor, view: View, group: Processes) -> None:
        self._images, self._view, self.size, self._group = images, view, view.size, group
        self.planned: int | None = len(images)
        self.skipped: list[Skipped] = []
        self.notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str | None:
        return None

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        raise AssertionError("a tensor has no fingerprint, so its pass is never kept")

    def __iter__(self) -> Iterator[Batch]:
        own = torch.arange(self._group.rank, len(self._images), self._group.world)
        for indices in own.split(self._view.batch):
            pixels = self._images[int(indices[0]) : int(indices[-1]) + 1 : self._group.world]
            yield Batch(indices, tuple(f"image {i}" for i in indices.tolist()), self._view.fit(pixels))

    def shows(self, index: int) -> bool:
        return True

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        pixels = self._view.fit(self._images[index : index + 1].float())
        return self._view.shown(pixels)[0], pixels


class _OfPrepared:
    """Prepared images from a loader or dataset. Each is read once only, so the page shows the first ones."""

    def __init__(self, images: Prepared, view: View, group: Processes, limit: int | None) -> None:
        self._images, self._view, self.size, self._group, self._limit = images, view, view.size, group, limit
        length = images.length
        self.planned = length if limit is None or length is None else min(length, limit)
        self.skipped: list[Skipped] = []
        self.notes: tuple[str, ...] = ()
        self._kept: dict[int, Tensor] = {}

    @property
    def fingerprint(self) -> str | None:
        return None

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        raise AssertionError("a loader has no fingerprint, so its pass is never kept")

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for whole in self._images.batches(self._view.batch, self._limit):
            indices = torch.arange(start, start + len(whole))
            start += len(whole)
            own = indices % self._group.world == self._group.rank
            if not own.any():
                continue
            pixels, indices = self._view.fit(whole[own]), indices[own]
            for index, image in zip(indices.tolist(), pixels, strict=True):
                if len(self._kept) < KEPT_OF_A_STREAM:
                    self._kept[index] = image[None].clone()
            yield Batch(indices, tuple(f"image {i}" for i in indices.tolist()), pixels)

    def shows(self, index: int) -> bool:
        return index in self._kept

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        pixels = self._kept[index].float()
        return self._view.shown(pixels)[0], pixels
