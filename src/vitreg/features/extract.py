"""Features of a set of images, extracted once: reused under the same key, resumed after an interruption.

`extract` returns a `FeatureStore` on disk. Several processes, of one torchrun or started separately, share the shards;
see docs/verbs/extract.md.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vitreg.console.terminal import say
from vitreg.data.batches.training import deliveries_of
from vitreg.data.batches.workers import Delivery, EvaluationJobs, Job, default_workers
from vitreg.data.sets.example import TrainingSet
from vitreg.errors import UserError
from vitreg.features.fields import FieldReader, Wanted
from vitreg.features.key import key_of, made_from
from vitreg.features.shards import Shards, StoreRecord, cut, read_record, write_record
from vitreg.features.store import FeatureStore, find_damaged
from vitreg.passes.bench import Bench
from vitreg.passes.progress import progress
from vitreg.passes.view import View
from vitreg.records import Skipped
from vitreg.writing.claims import Claims

__all__ = ["Wanted", "extract"]

_WRITES_AHEAD = 2  # complete shards in memory waiting to be written
_POLL = 0.25  # seconds


def extract(bench: Bench, data: TrainingSet, wanted: Wanted, view: View | None = None) -> FeatureStore:
    """Return the features of a set; shards already on disk are not computed again.

    They lie in ``bench.features/KEY``. KEY is a hash of the model's weights and dtype, the preprocessing, `wanted` and
    the listing of the images. Every process of `bench.group` must call this.

    Args:
        data: samples readable in any order; `rows` of the store are indices into it.
        view: how the model sees pictures; `bench.view()` if None.
    Raises:
        UserError: for a set without a readable image, features the model does not have, values that are not finite, or
            a folder that cannot be written.
    """
    if not len(data):
        raise UserError(f"there are no images in {bench.data} to extract features of.")
    backbone = bench.backbone
    view = bench.view() if view is None else view
    reader = FieldReader(backbone, wanted, view.size)
    words = made_from(backbone, data, view.pictures, view.policy, view.size, reader)
    per_shard, batch = cut(reader.fields, view.batch)
    record = StoreRecord(
        key=key_of(words),
        images=len(data),
        per_shard=per_shard,
        batch=batch,
        depth=backbone.depth,
        grid=reader.grid,
        fields=reader.fields,
        made_from=words,
        precision_choice=backbone.precision_choice,
        notes=list(data.notes),
    )
    shards = _begun(bench.features / record.key, record)
    notes = [*data.notes, *_repaired(bench, shards)]
    bench.noted.extend(notes)
    missing = shards.missing()
    if missing:
        with Claims(shards.folder) as claims:
            _Extraction(bench, data, view, reader, shards, claims).run(missing)
    store = FeatureStore(shards, notes)
    if not store.images:
        first = store.skipped[0]
        raise UserError(f"none of {len(data)} images could be read, such as {first.name}: {first.reason}.")
    return store


def _begun(folder: Path, record: StoreRecord) -> Shards:
    """Open or create the folder of these features; the process that creates it decides the size of its shards."""
    found = read_record(folder)
    if found is None or found.key != record.key:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}.") from error
        with Claims(folder) as claims, claims.alone():
            found = read_record(folder)
            if found is None or found.key != record.key:
                found = record
                write_record(folder, record)
    if found.notes != record.notes:
        found = found.model_copy(update={"notes": record.notes})
        with (
            suppress(UserError),
            Claims(folder) as claims,
            claims.alone(),
        ):  # an unwritable folder can still be read
            write_record(folder, found)
    return Shards(folder, found)


def _repaired(bench: Bench, shards: Shards) -> list[str]:
    """Verify the checksums of finished shards, split over the processes; discard and report damaged ones."""
    own = [shard for shard in range(bench.group.rank, len(shards), bench.group.world) if shards.begun(shard)]
    show = bench.group.first and not bench.quiet
    with progress("checking", len(own), unit="shards", show=show and len(own) > 0) as advance:
        damaged = find_damaged(shards, own, advance)
    if damaged:
        with Claims(shards.folder) as claims:
            # A shard that another process is writing looks damaged too, so the check is repeated under its claim.
            damaged = [shard for shard in damaged if claims.take(shard) and shards.damaged(shard)]
            for shard in damaged:
                shards.discard(shard)
    notes = [
        f"{shards.path(shard)} was damaged; its features were extracted anew."
        for part in bench.group.gather(damaged)
        for shard in part
    ]
    if show:
        for note in notes:
            say(f"vitreg: {note}", error=True)
    return notes


@dataclass(slots=True)
class _Shard:
    """One shard being computed."""

    number: int
    rows: list[Tensor] = field(default_factory=list)
    values: list[dict[str, Tensor]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A batch between decoding and the model; a batch never mixes images of two shards."""

    shard: _Shard
    last: bool


class _Extraction:
    """This process's share of an extraction."""

    def __init__(
        self,
        bench: Bench,
        data: TrainingSet,
        view: View,
        reader: FieldReader,
        shards: Shards,
        claims: Claims,
    ) -> None:
        self._bench, self._view, self._reader = bench, view, reader
        self._jobs, self._shards, self._claims = EvaluationJobs(data, view.pictures), shards, claims
        self._workers = default_workers() if bench.workers is None else bench.workers
        # The store's batch is kept, because another batch may change the last bit of the features.
        self._batch = bench.batch_size or shards.record.batch
        self._under_way: deque[_Piece] = deque()

    def run(self, missing: list[int]) -> None:
        """Compute shards until none is missing; wait for shards of other processes, and take them over if those die."""
        images, told = self._shards.record.images, False
        show = self._bench.group.first and not self._bench.quiet
        done = images - sum(len(self._shards.range(shard)) for shard in missing)
        with progress("extracting", images, unit="images", show=show, done=done) as advance:
            while missing:
                if not self._pass(missing, advance):
                    if show and not told:
                        sentence = f"waiting for other processes that extract into {self._shards.folder}"
                        say(f"vitreg: {sentence}", error=True)
                        told = True
                    time.sleep(_POLL)
                missing = [shard for shard in missing if self._shards.finished(shard) is None]

    def _pass(self, missing: list[int], advance: Callable[[int], None]) -> bool:
        """Compute every shard that can be claimed. Returns whether there was one."""
        batches = self._claimed(missing)
        first = next(batches, None)
        if first is None:
            return False
        device = self._bench.backbone.device
        waiting: deque[tuple[_Piece, Delivery, Callable[[], dict[str, Tensor]]]] = deque()
        deliveries = deliveries_of(self._jobs, itertools.chain([first], batches), self._workers)
        with closing(deliveries), _Writer(self._shards, self._claims) as writer:
            for delivery in deliveries:
                piece = self._under_way.popleft()
                waiting.append((piece, delivery, self._computed(delivery)))
                # On a GPU the next batch starts before the values of this one are fetched.
                if len(waiting) > (device.type == "cuda"):
                    self._keep(*waiting.popleft(), writer, advance)
            while waiting:
                self._keep(*waiting.popleft(), writer, advance)
        return True

    def _claimed(self, missing: list[int]) -> Iterator[list[Job]]:
        """Yield the batches of one shard after another; a shard is claimed when its first batch is requested."""
        rank, world = self._bench.group.rank, self._bench.group.world
        own = [shard for shard in missing if shard % world == rank]
        for number in [*own, *(shard for shard in reversed(missing) if shard % world != rank)]:
            if self._shards.finished(number) or not self._claims.take(number):
                continue
            if self._shards.finished(number):  # by the process that just released it
                self._claims.let_go(number)
                continue
            self._shards.discard(number)
            shard, places = _Shard(number), self._shards.range(number)
            for start in range(places.start, places.stop, self._batch):
                stop = min(start + self._batch, places.stop)
                self._under_way.append(_Piece(shard, stop == places.stop))
                yield [Job(place, place) for place in range(start, stop)]

    def _computed(self, delivery: Delivery) -> Callable[[], dict[str, Tensor]]:
        if not delivery.stacks:
            return dict
        backbone, reader = self._bench.backbone, self._reader
        pixels = delivery.stacks[0].permute(0, 3, 1, 2).to(backbone.device, non_blocking=True)
        images = self._view.pictures.normalise(pixels)
        mirror = self._view.fit(images.flip(-1)) if reader.mirrored else None
        return _to_host(reader(self._view.fit(images), mirror))

    def _keep(
        self,
        piece: _Piece,
        delivery: Delivery,
        computed: Callable[[], dict[str, Tensor]],
        writer: _Writer,
        advance: Callable[[int], None],
    ) -> None:
        """Add the values of a batch to its shard; the last batch sends the shard to the writer."""
        values, shard = computed(), piece.shard
        if values:
            self._check(values)
            shard.values.append(values)
            shard.rows.append(torch.tensor(delivery.indices))
            shard.names += delivery.names
        shard.skipped += [Skipped(name=name, reason=reason) for name, reason in delivery.skipped]
        advance(len(delivery.indices) + len(delivery.skipped))
        if piece.last:
            writer.add(shard)

    def _check(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            # One sum is enough, as any value that is not finite makes it so, and takes a quarter of the time.
            if not torch.isfinite(value.sum(dtype=torch.float32)):
                raise UserError(
                    f"features {name} are not finite as {self._shards.record.fields[name].dtype} of a model in "
                    f"{str(self._bench.backbone.dtype).removeprefix('torch.')}; store float32, or run with --precision fp32."
                )


class _Writer:
    """Writes shards in a thread while the model computes; errors of that thread are raised in the caller."""

    def __init__(self, shards: Shards, claims: Claims) -> None:
        self._shards, self._claims = shards, claims
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vitreg-write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self._pool.shutdown(wait=True)
        while self._pending and kind is None:
            self._pending.popleft().result()

    def add(self, shard: _Shard) -> None:
        """Queue a complete shard for writing; blocks while the queue is full."""
        while self._pending and (len(self._pending) >= _WRITES_AHEAD or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, shard))

    def _write(self, shard: _Shard) -> None:
        fields = self._shards.record.fields
        if shard.values:
            values = {name: torch.cat([part[name] for part in shard.values]) for name in fields}
            rows = torch.cat(shard.rows)
        else:
            values = {name: torch.empty(0, *about.shape, dtype=about.torch_dtype) for name, about in fields.items()}
            rows = torch.empty(0, dtype=torch.int64)
        self._shards.write(shard.number, rows, values, shard.names, shard.skipped)
        self._claims.let_go(shard.number)


def _to_host(values: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Start copying values off a GPU; the returned function waits for them."""
    device = next(iter(values.values())).device
    if device.type != "cuda":
        return lambda: {name: value.cpu() for name, value in values.items()}
    host = {name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in values.items()}
    for name, value in values.items():
        host[name].copy_(value, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))

    def wait() -> dict[str, Tensor]:
        event.synchronize()
        return host

    return wait
