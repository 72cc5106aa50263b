"""Batches for training and for evaluation, made ahead by worker processes.

The content of a training batch depends only on the seed and the step, not on the number of workers or processes, nor on
where a run was resumed.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader

from vitreg.console.interrupts import interrupts_held
from vitreg.data.batches.batch import TrainBatch
from vitreg.data.batches.order import Order
from vitreg.data.batches.workers import (
    FEWER,
    Delivery,
    EvaluationJobs,
    Job,
    Tokenize,
    TrainingJobs,
    View,
    default_workers,
    handed_over,
    start_worker,
)
from vitreg.data.sets.example import TrainingSet
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError

_AHEAD = 2  # batches that each worker prepares
_PATIENCE = 1800.0  # seconds to wait for one batch; a slow one of thousands of large images takes minutes
_TIMED_OUT = re.compile(r"DataLoader timed out")
_KILLED = re.compile(r"DataLoader worker .*(killed|exited)")


class TrainingLoader:
    """The batches of one process, from a step on. Each iteration restarts at `start_step`.

    Worker processes live as long as an iteration: until its end, an exception, or `close()` of the iterator.

    Attributes:
        skipped: name and reason of every unreadable sample so far; other samples replaced them.
        wait_share: share of the time since the first batch that the consumer waited for data.
    """

    def __init__(
        self, jobs: TrainingJobs, order: Order, batch: int, rank: int, world: int, steps: range, workers: int
    ) -> None:
        self._jobs, self._order, self._steps, self._workers = jobs, order, steps, workers
        self._batch, self._own = batch, batch // world
        self._first = rank * self._own
        self.skipped: dict[str, str] = {}
        self.wait_share = 0.0

    def __len__(self) -> int:
        """Count the steps."""
        return len(self._steps)

    def __iter__(self) -> Generator[TrainBatch, None, None]:
        """Yield the batches in the order of the steps. Raises UserError where no sample can be read."""
        deliveries = deliveries_of(self._jobs, map(self._of_step, self._steps), self._workers)
        started: float | None = None
        waited, asked = 0.0, time.perf_counter()
        try:
            for delivery in deliveries:
                now = time.perf_counter()
                if started is None:
                    started = now  # starting the workers does not count as waiting
                else:
                    waited += now - asked
                    self.wait_share = waited / max(now - started, 1e-9)
                self.skipped = dict(delivery.skipped) | self.skipped
                yield TrainBatch(tuple(delivery.stacks), delivery.targets, tuple(delivery.names), self._first)
                asked = time.perf_counter()
        finally:
            deliveries.close()

    def _of_step(self, step: int) -> list[Job]:
        start = step * self._batch + self._first
        return [Job(position, self._order.at(position).index) for position in range(start, start + self._own)]


def training_loader(
    data: TrainingSet,
    view: View,
    order: Order,
    *,
    batch: int,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    steps: int,
    seed: int,
    workers: int | None = None,
    tokenize: Tokenize | None = None,
) -> TrainingLoader:
    """Make the batches of the steps `start_step` ... `steps` - 1 of a run.

    The global batch of step s holds the positions s * batch ... (s + 1) * batch - 1 of the order; this process takes
    the rank-th of `world` equal stretches of it.

    Args:
        data: the samples.
        view: augments a picture with torch's, numpy's or random's global generators, which are seeded by (seed,
            position) and restored afterwards.
        order: which sample stands where.
        batch: samples of a step over all processes.
        steps: of the whole run.
        workers: processes that decode and augment, by default this process's share of the processors; 0 uses this
            process.
        tokenize: turns one caption per sample, drawn anew each time, into token ids.
    Raises:
        UserError: if the processes cannot share the batch equally.
        ValueError: for an order of another length than the set, or a negative seed.
    """
    workers = default_workers() if workers is None else workers
    if batch < 1 or batch % world:
        raise UserError(f"a batch of {batch} cannot be shared equally by {world} processes.")
    if order.length != len(data) or workers < 0 or seed < 0 or not 0 <= rank < world:
        raise ValueError(
            f"an order of {order.length} for {len(data)} samples, {workers} workers, seed {seed}, rank {rank} of {world}"
        )
    jobs = TrainingJobs(data, view, seed, tokenize)
    return TrainingLoader(jobs, order, batch, rank, world, range(start_step, steps), workers)


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """Images in the order of the set, with what is known about them. The last batch may be smaller.

    Args:
        indices: places in the set, ascending.
        pixels: normalised.
        labels: class numbers; None where the set has none.
        captions: all captions of each image; empty where the set has none.
    """

    indices: Int64[Tensor, " B"]
    names: tuple[str, ...]
    pixels: Float32[Tensor, "B 3 h w"]
    labels: Int64[Tensor, " B"] | None = None
    captions: tuple[tuple[str, ...], ...] = ()


class EvaluationLoader:
    """One pass over this process's part of a set at each iteration; `skipped` as for `TrainingLoader`."""

    def __init__(
        self, data: TrainingSet, preprocess: Preprocess, batch: int, rank: int, world: int, workers: int
    ) -> None:
        self._jobs, self._preprocess, self._workers = EvaluationJobs(data, preprocess), preprocess, workers
        own = [Job(index, index) for index in range(rank, len(data), world)]
        self._batches = [own[start : start + batch] for start in range(0, len(own), batch)]
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Generator[EvaluationBatch, None, None]:
        """Yield the batches. Raises UserError if not one image could be read."""
        self.skipped = {}
        deliveries = deliveries_of(self._jobs, iter(self._batches), self._workers)
        empty = bool(self._batches)
        try:
            for delivery in deliveries:
                self.skipped |= dict(delivery.skipped)
                if not delivery.stacks:
                    continue
                empty = False
                yield EvaluationBatch(
                    torch.tensor(delivery.indices),
                    tuple(delivery.names),
                    self._preprocess.normalise(delivery.stacks[0].permute(0, 3, 1, 2)),
                    delivery.targets,
                    tuple(map(tuple, delivery.captions)),
                )
        finally:
            deliveries.close()
        if empty:
            name, reason = next(iter(self.skipped.items()))
            raise UserError(f"none of {len(self.skipped)} images could be read, such as {name}: {reason}.")


def evaluation_loader(
    data: TrainingSet, preprocess: Preprocess, *, batch: int, rank: int = 0, world: int = 1, workers: int | None = None
) -> EvaluationLoader:
    """Make batches that hold every sample once, in order; unreadable ones are left out and listed.

    Args:
        batch: samples at a time, in this process.
        rank, world: take the samples with index % world == rank.
        workers: processes that decode, as for `training_loader`.
    """
    workers = default_workers() if workers is None else workers
    if batch < 1 or workers < 0 or not 0 <= rank < world:
        raise ValueError(f"batch {batch} starts at 1, workers {workers} at 0, rank {rank} lies below world {world}")
    return EvaluationLoader(data, preprocess, batch, rank, world, workers)


def deliveries_of(jobs: Any, batches: Iterator[list[Job]], workers: int) -> Generator[Delivery, None, None]:
    """Run jobs batch by batch, and yield the results in order. All workers are stopped when this ends, also after an
    error."""
    loader = DataLoader(
        jobs,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=handed_over,
        timeout=_PATIENCE if workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
        prefetch_factor=_AHEAD if workers else None,
        generator=torch.Generator(),  # else it would draw from the global one
    )
    iterator = None
    try:
        with interrupts_held():
            iterator = iter(loader)
        while (delivery := next(iterator, None)) is not None:
            if delivery.problem is not None:
                raise UserError(delivery.problem)
            yield delivery
    except BaseException as error:
        if not workers:
            raise
        _drop_frames(error)
        if _worker_died(error):
            # torch raises in SIGCHLD's handler, at any point of the process: make it happen here.
            with contextlib.suppress(RuntimeError):
                time.sleep(0.2)
            raise UserError(
                f"a data worker was killed, probably because memory or shared memory (/dev/shm) ran out; use {FEWER}."
            ) from None
        if isinstance(error, RuntimeError) and _TIMED_OUT.match(str(error)):
            raise UserError(
                f"no batch came from the data workers in {_PATIENCE / 60:.0f} minutes: a file system may hang, or they have "
                f"too much to do; use {FEWER} to see where."
            ) from None
        raise
    finally:
        with interrupts_held():
            del iterator  # ends the workers


def _worker_died(error: BaseException) -> bool:
    """Whether an exception means that a worker died, not that it raised ("Caught ... in DataLoader worker")."""
    lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and "Caught" not in str(error)
    return lost or (isinstance(error, RuntimeError) and _KILLED.match(str(error)) is not None)


def _drop_frames(error: BaseException | None) -> None:
    """Drop an exception's traceback, whose frames would keep DataLoader's iterator and its workers alive.

    An error raised in a worker has its traceback in the message.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
