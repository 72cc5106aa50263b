"""Sorts the images of a Python call: paths and pictures become a source, prepared images become tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from vitreg.backbones import Backbone
from vitreg.data import ImageSource
from vitreg.data.sources.pictures import first_of, picture_of
from vitreg.errors import UserError

Images = str | Path | Image.Image | np.ndarray | Tensor | Sequence[Any] | Dataset[Any] | DataLoader[Any]
"""Paths; pictures (PIL images, arrays uint8 [h, w, 3]); a float tensor [n, C, H, W] prepared for the model; a dataset
of pictures or prepared tensors, with or without labels; a loader of prepared tensors."""


class Prepared:
    """Batches of images prepared for the model, from a loader or a dataset of tensors.

    Args:
        workers: processes that read a dataset; a loader brings its own.
    Raises:
        UserError: if there are none.
    """

    def __init__(self, images: DataLoader[Any] | Dataset[Any] | Sequence[Tensor], workers: int | None = None) -> None:
        self._images, self._workers = images, workers
        self._begun: Iterator[Any] | None = None
        if isinstance(images, DataLoader):
            self._begun = iter(images)
            batch = next(self._begun, None)
            if batch is not None:
                self._begun = itertools.chain([batch], self._begun)
                self.first = _pixels(first_of(batch))[:1]
        else:
            item = next(iter(images), None)  # type: ignore[call-overload]  # works for an iterable dataset, too
            batch = item
            if item is not None:
                self.first = _pixels(first_of(item))[None]
        if batch is None:
            raise UserError("there are no images.")

    @property
    def length(self) -> int | None:
        """Number of images; None if it is only known at the end."""
        try:
            return len(self._images.sampler if isinstance(self._images, DataLoader) else self._images)  # type: ignore[arg-type]
        except TypeError:
            return None

    def batches(self, at_once: int, limit: int | None = None) -> Iterator[Tensor]:
        """Yield [B, C, H, W]: `at_once` images of a dataset at a time, or the loader's own batches.

        Raises:
            UserError: for images of different sizes.
        """
        loader = self._images
        if not isinstance(loader, DataLoader):
            loader = DataLoader(
                loader,  # type: ignore[arg-type]
                batch_size=at_once, num_workers=self._workers or 0, collate_fn=_stacked,
            )  # fmt: skip
        begun, self._begun = self._begun or iter(loader), None
        left = limit
        for batch in begun:
            pixels = _pixels(first_of(batch))[:left]
            if pixels.shape[1:] != self.first.shape[1:]:
                raise UserError(
                    f"prepared images have one size; one is {list(pixels.shape[1:])}, the first {list(self.first.shape[1:])}."
                )
            yield pixels
            left = None if left is None else left - len(pixels)
            if left == 0:
                return


def given(images: Any, backbone: Backbone | None = None, workers: int | None = None) -> ImageSource | Tensor | Prepared:
    """Sort the images of a Python call.

    Raises:
        UserError: for any other type, paths that do not exist, or an empty set.
    """
    if isinstance(images, Tensor):
        return images
    if isinstance(images, str | Path):
        return ImageSource([images])
    if isinstance(images, DataLoader):
        return Prepared(images)
    if isinstance(images, Image.Image):
        return ImageSource.of_pictures([images])
    if isinstance(images, np.ndarray):
        images = list(images) if images.ndim == 4 else [images]
    if isinstance(images, Mapping) or not (hasattr(images, "__getitem__") or isinstance(images, IterableDataset)):
        raise _none_of_these(images, backbone)
    if isinstance(images, list | tuple):
        if all(isinstance(each, str | Path) for each in images):
            return ImageSource(images)
        kinds = {_kind(first_of(each)) for each in images}
        if kinds == {"picture"}:
            return ImageSource.of_pictures(images)
        if kinds == {"prepared"}:
            return Prepared(images, workers)
        raise _none_of_these(images, backbone)
    first = first_of(next(iter(images), None))
    if first is not None and _kind(first) == "picture" and not isinstance(images, IterableDataset):
        return ImageSource.of_pictures(images)
    if first is None or _kind(first) == "prepared":
        return Prepared(images, workers)
    raise _none_of_these(images, backbone)


def source_of(images: Any, verb: str) -> ImageSource:
    """Return the images as a source of pictures.

    Raises:
        UserError: as `given` does, and for tensors that are already prepared for a model.
    """
    found = given(images)
    if not isinstance(found, ImageSource):
        raise UserError(f"{verb} takes images as paths or pictures, and prepares them itself; these are tensors.")
    return found


def gathered(images: ImageSource | Tensor | Prepared, limit: int | None) -> ImageSource | Tensor:
    """Collect a loader's images into one tensor, for verbs that read a few images several times."""
    return torch.cat([*images.batches(16, limit)]) if isinstance(images, Prepared) else images


def _kind(thing: Any) -> str:
    if isinstance(thing, Tensor) and thing.is_floating_point():
        return "prepared"
    return "picture" if picture_of(thing) is not None else "other"


def _pixels(thing: Any) -> Tensor:
    if not isinstance(thing, Tensor) or not thing.is_floating_point():
        raise UserError(
            f"a loader gives floating point tensors that are prepared for the model, not {_called(thing)}; "
            "pictures are given as a list, or as the dataset."
        )
    return thing


def _stacked(items: Iterable[Any]) -> Tensor:
    pixels = [_pixels(first_of(item)) for item in items]
    if len({each.shape for each in pixels}) > 1:
        raise UserError(f"prepared images have one size; these have {sorted({tuple(each.shape) for each in pixels})}.")
    return torch.stack(pixels)


def _none_of_these(images: object, backbone: Backbone | None) -> UserError:
    channels = 3 if backbone is None else backbone.anatomy.channels
    return UserError(
        f"images are paths, PIL pictures, arrays uint8 [h, w, 3], one floating point tensor [n, {channels}, H, W], a Dataset "
        f"or a DataLoader, not {_called(images)}."
    )


def _called(thing: object) -> str:
    if isinstance(thing, list | tuple) and thing:
        return f"a {type(thing).__name__} with {_called(next((each for each in thing if _kind(each) == 'other'), thing[0]))}"
    shape, dtype = getattr(thing, "shape", None), getattr(thing, "dtype", None)
    return f"{type(thing).__name__}" + ("" if shape is None else f" {dtype} {list(shape)}")
