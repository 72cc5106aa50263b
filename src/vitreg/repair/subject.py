"""`Subject`: the model to repair, its images in three parts, and its outliers."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.passes.batches import Batches
from vitreg.passes.view import images_at_once
from vitreg.repair.outliers import Outliers, find_outliers

Part = Literal["fit", "tune", "held_out"]
TUNED_ON = 64  # images; a search asks for many forwards over them


class Kept:
    """Images of one size, prepared, in a temporary file: read once, seen many times, in constant memory.

    The images are dealt to "held_out" (half), "tune" (a third of the others, at most `TUNED_ON`) and "fit" (the rest) by
    a seed. Without `choose` none are in "tune".
    """

    def __init__(self, batches: Batches, limit: int, seed: int = 0, *, choose: bool = True) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        self.names: list[str] = []
        shape: tuple[int, ...] = ()
        for batch in batches:
            pixels = batch.pixels[: limit - len(self.names)].float().cpu().contiguous()
            shape = tuple(pixels.shape[1:])
            try:
                self._file.write(pixels.numpy().tobytes())
                self._file.flush()  # a full disk must fail here, not when the file is read
            except OSError as error:
                raise UserError(f"cannot keep the prepared images: {error.strerror or error}.") from error
            self.names += list(batch.names)[: len(pixels)]
            if len(self.names) >= limit:
                break
        if not self.names:
            raise UserError("none of the images could be read.")
        self._pixels = np.memmap(self._file, np.float32, "r", shape=(len(self.names), *shape))
        order = np.random.default_rng(seed).permutation(len(self.names))
        unjudged = len(order) - len(order) // 2
        tune = min(max(unjudged // 3, 1), unjudged - 1, TUNED_ON) if choose else 0
        fit = unjudged - tune
        self._parts = {"fit": order[:fit], "tune": order[fit:unjudged], "held_out": order[unjudged:]}
        self.skipped = list(batches.skipped)

    def __len__(self) -> int:
        return len(self.names)

    def count(self, part: Part) -> int:
        """Return how many images a part has."""
        return len(self._parts[part])

    def names_of(self, part: Part) -> list[str]:
        """Return the names of the images of a part, in the order of its batches."""
        return [self.names[index] for index in np.sort(self._parts[part])]

    @cached_property
    def sha256(self) -> str:
        """Hash of the prepared images, in their order."""
        found = hashlib.sha256(str(self._pixels.shape).encode())
        for image in self._pixels:
            found.update(image.tobytes())
        return found.hexdigest()

    def batches(self, part: Part, at_once: int) -> Iterator[Float[Tensor, "B C H W"]]:
        """Yield the images of a part, always in the same order."""
        index = self._parts[part]
        for start in range(0, len(index), at_once):
            yield torch.from_numpy(self._pixels[np.sort(index)[start : start + at_once]])

    def take(self, part: Part, rows: np.ndarray) -> Float[Tensor, "B C H W"]:
        """Return some images of a part, by their places in the order of `batches`."""
        return torch.from_numpy(self._pixels[np.sort(self._parts[part])[rows]])

    def close(self) -> None:
        """Remove the file."""
        del self._pixels
        self._file.close()


@dataclass(frozen=True)
class Subject:
    """A model to repair, with images.

    Args:
        backbone: the model, perhaps already repaired by an earlier round.
        images: prepared for it.
        size: of the images (height, width).
        seed: of all draws.
        force: repair a model without outliers: take the patches with the largest norms for them.
        random: fit a control: choose as many neurons, tokens or places by lot.
        show: whether long fits show their progress on standard error.
    """

    backbone: Backbone
    images: Kept
    size: tuple[int, int]
    seed: int = 0
    force: bool = False
    random: bool = False
    show: bool = False

    def batches(self, part: Part = "fit") -> Iterator[Float[Tensor, "B C H W"]]:
        """Yield the images of a part, as many at once as the model takes."""
        yield from self.images.batches(part, images_at_once(self.backbone, self.size))

    @cached_property
    def outliers(self) -> Outliers:
        """The outliers of the model on the images to fit on.

        Raises:
            NothingToRepairError: if there are none, unless forced.
        """
        return find_outliers(self.backbone, self.batches("fit"), force=self.force)

    def with_backbone(self, backbone: Backbone) -> Subject:
        """Return the same images for another model; its outliers are looked for anew."""
        return replace(self, backbone=backbone)

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.images.close()
