"""The published protocols of dense tasks: the model runs on new random crops at every step, and on full test images.

Threads make the crops ahead; the crops of a step depend on the seed and the step alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vitreg.data.batches.order import Order
from vitreg.data.batches.workers import default_workers
from vitreg.data.sets.example import Pairs
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.augment import to_bytes
from vitreg.data.views.dense_augment import PairView
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.records import Skipped
from vitreg.verbs.eval.dense.tokens import Case, DenseTokens, Read, read_tokens

MAPS_LOOKED_AT = 1000  # training maps, spread evenly, for controls without a model
_TRIES = 100  # pairs tried for one crop; if all are unreadable, the data are
_STEPS_AHEAD = 2

Tokens = Callable[[Float32[Tensor, "B 3 h w"]], DenseTokens]
Look = Callable[[Float32[Tensor, "1 3 H W"], Tokens, Read], Tensor]
"""How a test image is predicted: (normalised image, token reader, head) -> map [1, C, H, W]."""


class Crops:
    """A `DenseSource` that runs the model at every step.

    Args:
        blocks: blocks that the head reads.
        batch: crops per step.
        view: (picture, map) -> a crop of both.
        test_image: test picture -> the picture at its test size.
        look: predicts the map of a test image.
        settings: settings for the record.
    Raises:
        UserError: under torchrun, or for a model whose preprocessing is unknown.
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
        view: PairView,
        test_image: Callable[[UInt8[Tensor, "3 H W"]], UInt8[Tensor, "3 h w"]],
        look: Look,
        settings: Mapping[str, Any],
    ) -> None:
        bench.backbone.refuse_edited_images("maps")
        if bench.group.world > 1:
            raise UserError("the published protocols of dense tasks run in one process; start without torchrun.")
        self._train, self._test, self._view, self._seed = train, test, view, bench.seed
        self._backbone, self._preprocess = bench.backbone, bench.view().pictures
        self._blocks, self._with_cls, self._final_norm = blocks, with_cls, final_norm
        self._test_image, self._look, self._batch = test_image, look, batch
        self._workers = default_workers() if bench.workers is None else max(1, bench.workers)
        self._reasons: dict[str, str] = {}
        self.images, self.settings = len(train), settings

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Pairs that could not be read so far."""
        return tuple(Skipped(name=name, reason=reason) for name, reason in sorted(self._reasons.items()))

    def batches(self) -> Generator[tuple[DenseTokens, Tensor], None, None]:
        """Yield tokens and maps of crops; the threads end with the generator."""
        with closing(self._made_ahead()) as crops:
            while True:
                images, maps = (torch.stack(parts) for parts in zip(*islice(crops, self._batch), strict=True))
                yield self._tokens(self._preprocess.normalise(images)), maps.to(self._backbone.device)

    def training_maps(self) -> Iterator[Tensor]:
        """Yield up to 1000 training maps, at full size."""
        count = min(len(self._train), MAPS_LOOKED_AT)
        for number in range(count):
            try:
                yield torch.from_numpy(self._train.map(number * len(self._train) // count))
            except Unreadable:
                continue  # a crop of it will list it

    def judged(self) -> Iterator[Case]:
        """Yield the test images one at a time."""
        for index in range(len(self._test)):
            try:
                image, values = to_bytes(self._test.read(index).image), self._test.map(index)
            except Unreadable as error:
                self._reasons[self._test.name(index)] = error.reason
                continue
            shown = self._preprocess.normalise(self._test_image(image)[None])

            def predict(read: Read, shown: Tensor = shown) -> Tensor:
                return self._look(shown, self._tokens, read)

            yield Case(self._test, index, torch.from_numpy(values), predict)

    def _tokens(self, images: Float32[Tensor, "B 3 h w"]) -> DenseTokens:
        return read_tokens(self._backbone, images, self._blocks, with_cls=self._with_cls, final_norm=self._final_norm)

    def _made_ahead(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield crops without end, in the order of their positions."""
        order = Order(len(self._train), self._seed)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="vitreg-crops")
        pending: deque[Future[tuple[Tensor, Tensor]]] = deque()
        position = 0
        try:
            while True:
                while len(pending) < max(self._workers, _STEPS_AHEAD * self._batch):
                    pending.append(pool.submit(self._crop, position, order.at(position).index))
                    position += 1
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _crop(self, position: int, index: int) -> tuple[Tensor, Tensor]:
        """Make the crop of a position; an unreadable pair is replaced by the next one."""
        words = np.random.SeedSequence([self._seed, position]).generate_state(1, np.uint64)
        draw = torch.Generator().manual_seed(int(words[0]) >> 1)
        for attempt in range(_TRIES):
            which = (index + attempt) % len(self._train)
            try:
                image, values = to_bytes(self._train.read(which).image), torch.from_numpy(self._train.map(which))
            except Unreadable as error:
                self._reasons[self._train.name(which)] = error.reason
                continue
            return self._view(image.contiguous(), values, draw)
        name, reason = next(iter(self._reasons.items()))
        raise UserError(f"none of {_TRIES} pairs tried could be read, such as {name}: {reason}.")
