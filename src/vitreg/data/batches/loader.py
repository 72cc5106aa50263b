"""Batches of a source in order, decoded ahead by a few threads while the model runs; unreadable images are listed."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vitreg.console.interrupts import interrupts_held
from vitreg.data.sources.content import added
from vitreg.data.sources.decode import Unreadable
from vitreg.data.sources.images import ImageSource
from vitreg.data.views.transforms import Preprocess
from vitreg.machine.processors import processors
from vitreg.records import Skipped

_BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one size, ready for the model. The last batch of a stream may be smaller."""

    indices: Int64[Tensor, " B"]  # positions in the source, ascending
    names: tuple[str, ...]
    pixels: Float32[Tensor, "B 3 h w"]
    content: Float64[np.ndarray, " limbs"] | None = None  # see `data.sources.content`; None without files


@dataclass(frozen=True, slots=True)
class _Decoded:
    place: int  # in this rank's order
    index: int
    name: str
    outcome: np.ndarray | str  # uint8 [h, w, 3], or the reason
    digest: bytes | None  # of the image's bytes


class Stream:
    """One pass over a source. Iterate it for `Batch`es; `skipped` lists the unreadable images so far.

    Each iteration restarts. Closing the iterator, leaving the loop or Ctrl-C stops the threads first.
    """

    def __init__(
        self, source: ImageSource, preprocess: Preprocess, batch_size: int, rank: int, world: int, workers: int,
        min_side: int, limit: int | None,
    ) -> None:  # fmt: skip
        self.source, self.preprocess, self.batch_size = source, preprocess, batch_size
        self.rank, self.world, self.workers = rank, world, workers
        self.min_side, self.limit = min_side, limit
        self.skipped: list[Skipped] = []
        self.skipped_indices: list[int] = []
        self._first = 0
        self._before: tuple[Skipped, ...] = ()

    def go_on(self, first: int, skipped: Sequence[Skipped]) -> None:
        """Begin at a later image of the source; images skipped by an earlier pass stay listed."""
        self._first, self._before = first, tuple(skipped)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield the batches in the order of the source."""
        self.skipped, self.skipped_indices = list(self._before), []
        waiting: list[_Decoded] = []
        with closing(self._decoded()) as images:
            for image in images:
                if isinstance(image.outcome, str):
                    self.skipped.append(Skipped(name=image.name, reason=image.outcome))
                    self.skipped_indices.append(image.index)
                    continue
                waiting.append(image)
                if len(waiting) == self.batch_size:
                    batch, waiting = self._batch(waiting), []
                    yield batch
        if waiting:
            yield self._batch(waiting)

    def _batch(self, images: list[_Decoded]) -> Batch:
        pixels = torch.from_numpy(np.stack([image.outcome for image in images])).permute(0, 3, 1, 2)  # [B, 3, h, w]
        return Batch(
            torch.tensor([image.index for image in images]),
            tuple(image.name for image in images),
            self.preprocess.normalise(pixels),
            added(image.digest for image in images),
        )

    def _decoded(self) -> Generator[_Decoded, None, None]:
        walk = self.source.walk(self.rank, self.world)
        limit, due = self.limit, itertools.dropwhile(lambda item: item.index < self._first, walk)
        items = enumerate(due if limit is None else itertools.takewhile(lambda item: item.index < limit, due))
        turn = threading.Lock()

        def work() -> _Decoded | None:
            # Reading happens in the threads too: the bytes of an archive or a URL arrive while the model computes.
            with turn:
                place, item = next(items, (0, None))
            if item is None:
                return None
            try:
                outcome, digest = item.reduced(self.preprocess.pixels, self.min_side)
            except Unreadable as error:
                outcome, digest = error.reason, None
            return _Decoded(place, item.index, item.name, outcome, digest)

        ahead = max(2 * self.workers, _BATCHES_AHEAD * self.batch_size)
        early: dict[int, _Decoded] = {}
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="vitreg-decode")
        try:
            with interrupts_held():  # else a thread that starts meanwhile would not be joined
                pending: deque[Future[_Decoded | None]] = deque(pool.submit(work) for _ in range(ahead))
            due = 0
            while pending:
                image = pending.popleft().result()
                if image is None:
                    continue  # the end; the tasks in flight return the rest
                early[image.place] = image
                # Threads may take turns in a different order than their tasks were submitted.
                while due in early:
                    yield early.pop(due)
                    due += 1
                    pending.append(pool.submit(work))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            walk.close()


def stream(
    source: ImageSource,
    preprocess: Preprocess,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    min_side: int = 1,
    limit: int | None = None,
) -> Stream:
    """Decode and preprocess the images of a source into batches, in constant memory.

    Args:
        source: the images.
        preprocess: gives every picture the same size.
        batch_size: images per batch; unreadable ones do not count.
        rank, world: take the images with index % world == rank, so that ranks together see each image once and their
            results can be merged by index.
        workers: threads that decode; by default as many as there are processors, at most 4. They run Pillow only, which
            releases the interpreter; torch's threads are the model's.
        min_side: pictures that fit into a square of this many pixels are skipped; give the patch.
        limit: take the images with an index below this.
    Returns:
        An iterable of `Batch`. Its `skipped` has one `Skipped` per unreadable image, in order; `skipped_indices` has
        their positions in the source.
    """
    if workers is None:
        workers = min(4, processors())
    if batch_size < 1 or workers < 1 or not 0 <= rank < world:
        raise ValueError(
            f"batch_size {batch_size} and workers {workers} start at 1, rank {rank} lies below world {world}"
        )
    return Stream(source, preprocess, batch_size, rank, world, workers, min_side, limit)
