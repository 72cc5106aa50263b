"""The short protocols of dense tasks: a head trained on stored features of every image and its mirror image.

Features and maps are on disk, so memory does not grow with the set; maps are sampled at points spread evenly over the
image.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vitreg.data.batches.order import Order
from vitreg.data.sets.example import Pairs
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.features.extract import Wanted, extract
from vitreg.features.store import FeatureStore
from vitreg.passes.bench import Bench
from vitreg.passes.view import View
from vitreg.records import Skipped
from vitreg.verbs.eval.dense.tokens import Case, DenseTokens, Read

POINTS = 4  # training samples a map at 4 x 4 points per patch


class Stored:
    """A `DenseSource` that extracts its features once.

    Images are squashed to the size of the bench, and test maps are judged at their own size.

    Args:
        blocks: blocks that the head reads.
        batch: images per step, half of them mirrored on average.
        average_mirrored: a prediction is the mean over a test image and its mirror image.
    Raises:
        UserError: if no pair of a side can be used, or the model cannot take images of that size.
    """

    def __init__(
        self,
        bench: Bench,
        train: Pairs,
        test: Pairs,
        blocks: Sequence[int],
        *,
        batch: int,
        with_cls: bool,
        final_norm: bool,
        average_mirrored: bool,
    ) -> None:
        self._blocks, self._with_cls, self._mirrored = tuple(blocks), with_cls, average_mirrored
        self._test, self._device = test, bench.backbone.device
        view = whole_image(bench)
        self._grid = view.layout.grid
        points = (POINTS * self._grid[0], POINTS * self._grid[1])
        stores = [
            extract(
                bench,
                data,
                Wanted(
                    cls=self._blocks if with_cls else (),
                    patches=self._blocks,
                    final_norm=final_norm,
                    dtype="float16",
                    mirrored=mirrored,
                ),
                view,
            )
            for data, mirrored in ((train, True), (test, average_mirrored))
        ]
        self._train_store, self._test_store = stores
        self._places, self._maps, skipped = stored_maps(train, stores[0], points)
        self.images = len(self._places)
        self.skipped: tuple[Skipped, ...] = (*skipped, *stores[1].skipped)
        self._batch, self._seed = batch, bench.seed
        self.settings = {
            "size": list(view.size),
            "images": "whole, squashed to the size",
            "features": "of image and mirror image, once, float16",
            "points learned from": list(points),
            "test": "mean over image and mirror image" if average_mirrored else "one view",
        }

    def batches(self) -> Generator[tuple[DenseTokens, Tensor], None, None]:
        """Yield tokens and maps epoch by epoch, half of them mirrored."""
        order, draw = Order(self.images, self._seed), torch.Generator().manual_seed(self._seed)
        for first in itertools.count(step=self._batch):
            which = np.array([order.at(position).index for position in range(first, first + self._batch)])
            yield self._read(which, (torch.rand(self._batch, generator=draw) < 0.5).numpy())

    def _read(self, which: Int64[np.ndarray, " B"], flips: Bool[np.ndarray, " B"]) -> tuple[DenseTokens, Tensor]:
        """Read tokens and maps of some images; mirror images come last."""
        plain, turned = which[~flips], which[flips]
        maps = np.concatenate([self._maps[plain], self._maps[turned][..., ::-1]])
        parts = [
            self._tokens(self._train_store, self._places[part], mirrored=mirrored)
            for part, mirrored in ((plain, False), (turned, True))
            if len(part)
        ]
        tokens = DenseTokens(
            [torch.cat(blocks) for blocks in zip(*(part.patches for part in parts), strict=True)],
            [torch.cat(blocks) for blocks in zip(*(part.cls for part in parts), strict=True)],
            self._grid,
        )
        return tokens, torch.from_numpy(maps).to(self._device)

    def training_maps(self) -> Iterator[Tensor]:
        """Yield all training maps, at the sampled points."""
        return (torch.from_numpy(np.array(values)) for values in self._maps)

    def judged(self) -> Iterator[Case]:
        """Yield the test images one at a time."""
        for place, index in enumerate(self._test_store.rows.tolist()):
            try:
                values = self._test.map(index)
            except Unreadable as error:
                self.skipped += (Skipped(name=self._test.map_name(index), reason=error.reason),)
                continue

            def predict(read: Read, place: int = place) -> Tensor:
                here = torch.tensor([place])
                found = read(self._tokens(self._test_store, here, mirrored=False))
                if self._mirrored:
                    found = (found + read(self._tokens(self._test_store, here, mirrored=True)).flip(-1)) / 2
                return found

            yield Case(self._test, index, torch.from_numpy(values), predict)

    def _tokens(self, store: FeatureStore, places: Int64[Tensor, " B"], *, mirrored: bool) -> DenseTokens:
        prefix = "mirrored/" if mirrored else ""

        def stored(kind: str) -> list[Tensor]:
            return [
                torch.as_tensor(store[f"{prefix}{kind}/{block}"][places]).to(self._device) for block in self._blocks
            ]

        return DenseTokens(stored("patches"), stored("cls") if self._with_cls else [], self._grid)


def whole_image(bench: Bench) -> View:
    """Return the view of whole pictures, without keeping their aspect.

    The sides are rounded to multiples of the patch, because padding or cropping would misalign maps and patches.

    Raises:
        UserError: for a model whose preprocessing is unknown, or a size that it cannot take.
    """
    bench.backbone.refuse_edited_images("maps")
    found, patch = bench.view().pictures, bench.backbone.anatomy.patch
    size = tuple(max(2, round(side / step)) * step for side, step in zip(found.size, patch, strict=True))
    whole = Preprocess(
        size=(size[0], size[1]),
        resize=(size[0], size[1]),
        mean=found.mean,
        std=found.std,
        interpolation=found.interpolation,
        crop=False,
    )
    return bench.view(preprocess=whole)


def stored_maps(
    pairs: Pairs, store: FeatureStore, size: tuple[int, int]
) -> tuple[Int64[Tensor, " n"], np.ndarray, tuple[Skipped, ...]]:
    """Sample the maps of all images that have features, at `size` points each, into an array on disk.

    Returns:
        rows (in the store) of the images used, their maps [n, *size], and the other images with reasons.
    Raises:
        UserError: if fewer than two images can be used.
    """
    places: list[int] = []
    skipped = list(store.skipped)
    maps = np.empty((0, *size))
    for place, index in enumerate(store.rows.tolist()):
        try:
            values = pairs.map(index)
            reason = pairs.empty(values)
        except Unreadable as error:
            values, reason = maps, error.reason
        if reason:
            skipped.append(Skipped(name=pairs.map_name(index), reason=reason))
            continue
        if not places:
            with tempfile.TemporaryFile() as file:  # without a name; deleted together with the array
                maps = np.memmap(file, values.dtype, "w+", shape=(len(store.rows), *size))
        maps[len(places)] = at_points(values, size)
        places.append(place)
    if len(places) < 2:
        reason = f", the others not, such as {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise UserError(f"{len(places)} of {len(pairs)} pairs of {pairs.title} can be used{reason}.")
    return torch.tensor(places), maps[: len(places)], tuple(skipped)


def at_points(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Sample a map [H, W] at size[0] x size[1] points, the centres of equal rectangles."""
    rows, cols = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(size, values.shape, strict=True))
    return values[np.ix_(rows, cols)]
