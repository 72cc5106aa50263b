"""The work of a data worker: decode, replace unreadable samples, augment with random numbers of the sample.

These depend only on (seed, position in the run), so a batch is the same in any process.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from vitreg.data.sets.example import Example, TrainingSet
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.machine.processors import processors

OneView = Callable[[Image.Image], tuple[UInt8[Tensor, "V 3 h w"], ...]]
PairedView = Callable[[Image.Image, np.ndarray], tuple[tuple[UInt8[Tensor, "V 3 h w"], ...], Tensor]]
View = OneView | PairedView
"""What is made of a picture; of a picture with a map, what is made of both."""
Tokenize = Callable[[list[str]], Int64[Tensor, "B L"]]

REPLACEMENTS = 100  # tried for one position; not all of them are unreadable by chance
FEWER = "fewer workers (--workers; in training --data.workers, which may be 0)"
_MOST_WORKERS = 16  # batches come in order, and each worker holds two of them


@dataclass(frozen=True, slots=True)
class Job:
    """One sample to deliver."""

    position: int
    index: int


@dataclass(slots=True)
class Delivery:
    """A worker's result for one batch. `problem` is the sentence of a UserError, since DataLoader turns exceptions into
    tracebacks.

    Args:
        stacks: views [V, B, 3, h, w], or pictures [B, h, w, 3] for evaluation.
        targets: class numbers, token ids, or None.
        names, indices, captions: of the samples delivered.
        skipped: (name, reason) of the samples that gave no picture.
    """

    stacks: list[Tensor]
    targets: Tensor | None
    names: list[str]
    indices: list[int]
    captions: list[list[str]]
    skipped: list[tuple[str, str]]
    problem: str | None = None

    def share_memory(self) -> None:
        """Move to shared memory. Raises RuntimeError if it is full."""
        for tensor in (*self.stacks, *([] if self.targets is None else [self.targets])):
            tensor.share_memory_()

    def pin_memory(self) -> Delivery:
        """Move to pinned memory; DataLoader calls this."""
        self.stacks = [stack.pin_memory() for stack in self.stacks]
        self.targets = None if self.targets is None else self.targets.pin_memory()
        return self


class TrainingJobs(torch.utils.data.Dataset[Delivery]):
    """The samples of a set as DataLoader asks for them: a batch of jobs at once."""

    def __init__(self, data: TrainingSet, view: View, seed: int, tokenize: Tokenize | None) -> None:
        self.data, self.view, self.seed, self.tokenize = data, view, seed, tokenize

    def __getitems__(self, jobs: Sequence[Job]) -> Delivery:
        """Read and augment the samples of a batch."""
        delivery = Delivery([], None, [], [], [], [])
        views: list[tuple[Tensor, ...]] = []
        targets: list[int | str | Tensor | None] = []
        try:
            with _random_state_kept():
                for job in jobs:
                    example = self._read(job, delivery)
                    words = _words(self.seed, job.position, "sample")
                    _seed_all(words)
                    stacks, target = self._viewed(example)
                    views.append(stacks)
                    targets.append(target[words[3] % len(target)] if isinstance(target, list) else target)
        except UserError as error:
            delivery.problem = str(error)
            return delivery
        delivery.stacks = [torch.stack(stack, dim=1) for stack in zip(*views, strict=True)]  # [V, B, 3, h, w] each
        try:
            delivery.targets = self._targets(targets)
        except UserError as error:
            delivery.problem = str(error)
        return delivery

    def _viewed(self, example: Example) -> tuple[tuple[Tensor, ...], int | list[str] | Tensor | None]:
        """Make the views of a picture, and their targets from its map."""
        view: Any = self.view
        if isinstance(example.target, np.ndarray):
            return view(example.image, example.target)
        return view(example.image), example.target

    def _read(self, job: Job, delivery: Delivery) -> Example:
        """Read the sample of a position, or the first readable one of a fixed series of replacements."""
        index = job.index
        for attempt in range(REPLACEMENTS + 1):
            if attempt:
                index = _words(self.seed, job.position, "replacement", attempt)[0] % len(self.data)
            try:
                example = self.data.read(index)
            except Unreadable as error:
                delivery.skipped.append((self.data.name(index), error.reason))
            else:
                delivery.names.append(self.data.name(index))
                delivery.indices.append(index)
                return example
        name, reason = delivery.skipped[-1]
        raise UserError(f"none of {REPLACEMENTS + 1} samples tried could be read, such as {name}: {reason}.")

    def _targets(self, targets: list[int | str | Tensor | None]) -> Tensor | None:
        if self.tokenize is not None:
            captions = [target for target in targets if isinstance(target, str)]
            if len(captions) < len(targets):
                raise ValueError("a tokenizer for samples without captions")
            return self.tokenize(captions)  # [B, L]
        maps = [target for target in targets if isinstance(target, Tensor)]
        if maps:
            shapes = {tuple(each.shape) for each in maps}
            if len(shapes) > 1:
                raise UserError(
                    f"maps of one batch have different shapes, such as {' and '.join(map(str, sorted(shapes)[:2]))}."
                )
            return torch.stack(maps)  # [B, ...]
        numbers = [target for target in targets if isinstance(target, int)]
        if any(isinstance(target, str) for target in targets):
            raise ValueError("captions need a tokenizer")
        return torch.tensor(numbers) if len(numbers) == len(targets) else None  # [B]


class EvaluationJobs(torch.utils.data.Dataset[Delivery]):
    """The samples of a set, resized and cropped deterministically; unreadable ones are left out."""

    def __init__(self, data: TrainingSet, preprocess: Preprocess) -> None:
        self.data, self.preprocess = data, preprocess

    def __getitems__(self, jobs: Sequence[Job]) -> Delivery:
        """Read the samples of a batch."""
        delivery = Delivery([], None, [], [], [], [])
        pictures, numbers = [], []
        for job in jobs:
            try:
                example = self.data.read(job.index)
            except Unreadable as error:
                delivery.skipped.append((self.data.name(job.index), error.reason))
                continue
            except UserError as error:
                delivery.problem = str(error)
                return delivery
            pictures.append(torch.from_numpy(self.preprocess.pixels(example.image)))
            delivery.names.append(self.data.name(job.index))
            delivery.indices.append(job.index)
            if isinstance(example.target, int):
                numbers.append(example.target)
            elif isinstance(example.target, list):
                delivery.captions.append(example.target)
        if pictures:
            delivery.stacks = [torch.stack(pictures)]  # [B, h, w, 3]
            delivery.targets = torch.tensor(numbers) if len(numbers) == len(pictures) else None
        return delivery


def start_worker(_number: int) -> None:
    """Prepare a worker process: one thread, and ignore the signals that stop the run.

    Ctrl-C, torchrun and job schedulers signal all processes of a group, but the run may still need a batch before its
    last checkpoint. A second SIGTERM ends the worker, so that a hanging one can be stopped.
    """
    torch.set_num_threads(1)
    sys.excepthook = _quiet_when_left
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def handed_over(delivery: Any) -> Delivery:
    """Move a batch into shared memory here, where a failure can still be reported.

    PyTorch would do it in a thread that drops the batch if memory is full, and the run would wait for ever.
    """
    if torch.utils.data.get_worker_info() is None:
        return delivery
    try:
        delivery.share_memory()
    except RuntimeError as error:
        size = sum(stack.nbytes for stack in delivery.stacks)
        return Delivery([], None, [], [], [], [], _no_room(size, str(error)))
    return delivery


def _no_room(size: int, reason: str) -> str:
    mib = f"{size / 2**20:.1f} MiB"
    if "No space left" not in reason:
        return (
            f"a data worker cannot hand over a batch of {mib} ({reason}); read in the run itself with --data.workers 0."
        )
    try:
        whole = f" of {shutil.disk_usage('/dev/shm').total / 2**20:.3g} MiB"
    except OSError:
        whole = ""
    return (
        f"shared memory (/dev/shm{whole}) has no room for a batch of {mib} from a data worker; give it more (docker run "
        f"--shm-size=8g), or use {FEWER}."
    )


def _quiet_when_left(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report uncaught exceptions, except that the run closed the connection.

    If the run is interrupted while it receives a tensor, the sending thread raises, and Ctrl-C would print a traceback.
    Errors in samples do not come here: they are sent to the run.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def default_workers() -> int:
    """Return how many workers a process has by default: its share of the processors, at least one."""
    return min(_MOST_WORKERS, max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _words(seed: int, position: int, purpose: str, attempt: int = 0) -> list[int]:
    """Return random words determined by the arguments, the same in every version of numpy."""
    state = np.random.SeedSequence([seed, position, attempt, zlib.crc32(purpose.encode())])
    return state.generate_state(4, np.uint64).tolist()


def _seed_all(words: Sequence[int]) -> None:
    """Seed the generators that a view may use. Not torch.manual_seed, which would initialise the GPUs."""
    torch.default_generator.manual_seed(words[0] >> 1)
    np.random.seed(words[1] >> 32)
    random.seed(words[2])


@contextlib.contextmanager
def _random_state_kept() -> Generator[None, None, None]:
    """Restore the global random state: without workers this is the training process."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
