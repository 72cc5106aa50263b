"""Stored features of a set of images: arrays on disk, larger than memory, that are sliced like tensors.

`open_store` reads a store; `vitreg.features.extract.extract` makes one. docs/verbs/extract.md describes the layout.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vitreg.errors import UserError, unknown
from vitreg.features.shards import Shards, read_record
from vitreg.notebook import Brief, Row, Tabled
from vitreg.records import Skipped

_MAPPED = 512  # shards mapped at a time
_CHECKING = 4  # threads

Index = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor


class StoredArray:
    """One kind of feature of all images, [n, ...]; indexing reads only the requested images, as float32.

    Args:
        map_shard: shard -> its memory-mapped array.
        starts: first row of every shard, then n.
        shape: (n, shape for one image).
    """

    def __init__(
        self, map_shard: Callable[[int], np.ndarray], starts: Int64[np.ndarray, "s"], shape: tuple[int, ...]
    ) -> None:
        self._map, self._starts, self.shape = map_shard, starts, shape

    def __len__(self) -> int:
        """Count the images."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes, including the axis of images."""
        return len(self.shape)

    def __getitem__(self, index: Index) -> Float32[Tensor, "..."]:
        """Read one image, a slice, or the images of an index array (or boolean mask), in its order.

        Raises:
            IndexError: for an index out of range.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._stretch(start, max(start, stop)) if step == 1 else self._gather(np.arange(start, stop, step))
        if isinstance(index, int | np.integer):
            return self._gather(self._checked(np.array([index])))[0]
        places = index.detach().cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
        if places.ndim != 1:
            raise IndexError(f"index images by a number, a slice or an array of one axis, not of {places.ndim}")
        if places.dtype == bool:
            if len(places) != len(self):
                raise IndexError(f"{len(places)} times yes or no for {len(self)} images")
            places = places.nonzero()[0]
        return self._gather(self._checked(places.astype(np.int64)))

    def chunks(self, size: int) -> Iterator[Float32[Tensor, "..."]]:
        """Yield all images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def _checked(self, places: np.ndarray) -> np.ndarray:
        if len(places) and not -len(self) <= places.min() <= places.max() < len(self):
            raise IndexError(f"images {places.min()} to {places.max()} of {len(self)}")
        return np.where(places < 0, places + len(self), places)

    def _stretch(self, start: int, stop: int) -> Tensor:
        result = torch.empty(stop - start, *self.shape[1:])
        row = start
        while row < stop:
            shard = int(np.searchsorted(self._starts, row, side="right")) - 1
            first, end = int(self._starts[shard]), min(int(self._starts[shard + 1]), stop)
            result[row - start : end - start] = torch.from_numpy(self._map(shard)[row - first : end - first].copy())
            row = end
        return result

    def _gather(self, places: np.ndarray) -> Tensor:
        result = torch.empty(len(places), *self.shape[1:])
        shards = np.searchsorted(self._starts, places, side="right") - 1
        for shard in np.unique(shards):
            here = (shards == shard).nonzero()[0]
            # The fancy index makes a writable copy, as torch requires.
            values = torch.from_numpy(self._map(int(shard))[places[here] - self._starts[shard]])
            result[torch.from_numpy(here)] = values.float()
        return result


class FeatureStore(Tabled, Mapping[str, StoredArray]):
    """Features by name: "cls/-1", "mean/5", "registers/-1", "patches/-1", "norms/11", "mirrored/cls/-1", ...

    Attributes:
        rows: int64 [n], indices in the set of the images that could be read, ascending.
        skipped: the other images, with reasons.
        record: where the features come from.
        notes: sentences on what happened during the extraction.
    Raises:
        UserError: if shards are missing.
    """

    def __init__(self, shards: Shards, notes: Sequence[str] = ()) -> None:
        found = [shards.finished(shard) for shard in range(len(shards))]
        records = [record for record in found if record is not None]
        if len(records) < len(found):
            raise UserError(
                f"{shards.folder} has {len(records)} of {len(found)} shards; the same extraction, run again, finishes it."
            )
        self.folder, self.record, self.notes = shards.folder, shards.record, tuple(notes)
        self.skipped: list[Skipped] = [skipped for record in records for skipped in record.skipped]
        self._map = functools.lru_cache(_MAPPED)(shards.map)
        self._starts = np.cumsum([0, *(record.rows for record in records)], dtype=np.int64)
        self.rows: Int64[np.ndarray, " n"] = np.concatenate(
            [np.zeros(0, np.int64), *(np.array(shards.map(shard)["rows"]) for shard in range(len(shards)))]
        )

    def __repr__(self) -> str:
        return f"FeatureStore({self.images} images; {', '.join(self.record.fields)}; {self.folder})"

    def _brief(self) -> Brief:
        fields = [
            (name, f"{self.images} x {' x '.join(map(str, f.shape))} {f.dtype}")
            for name, f in self.record.fields.items()
        ]
        return Brief(title="FeatureStore", facts=[("images", self.images), *fields, ("folder", self.folder)])

    def _rows(self) -> list[Row]:
        """Give a row for each image: its place in the set, its name, and each field that is one vector, read into memory."""
        vectors = {name: self[name][:].numpy() for name in self if len(self.record.fields[name].shape) == 1}
        return [
            {"row": int(row), "name": name, **{field: values[place] for field, values in vectors.items()}}
            for place, (row, name) in enumerate(zip(self.rows, self.names, strict=True))
        ]

    @property
    def images(self) -> int:
        """n, the number of images that could be read."""
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """Names of the n images."""
        return [name for shard in range(len(self._starts) - 1) for name in json.loads(bytes(self._map(shard)["names"]))]

    def __getitem__(self, name: str) -> StoredArray:
        """Return the array of a field. Raises UserError for a field that is not stored."""
        found = self._resolved(name)
        if found not in self.record.fields:
            raise unknown("feature", name, self.record.fields, where=str(self.folder))
        return StoredArray(
            lambda shard: self._map(shard)[found], self._starts, (self.images, *self.record.fields[found].shape)
        )

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the fields."""
        return iter(self.record.fields)

    def __len__(self) -> int:
        """Count the fields."""
        return len(self.record.fields)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a field."""
        return isinstance(name, str) and self._resolved(name) in self.record.fields

    def _resolved(self, name: str) -> str:
        """Turn "cls/-1" into "cls/11"."""
        kind, _, block = name.rpartition("/")
        return f"{kind}/{int(block) + self.record.depth}" if block.startswith("-") and block[1:].isdigit() else name


def open_store(folder: str | Path, *, verify: bool = False) -> FeatureStore:
    """Open a folder of extracted features; values are read only when indexed.

    Args:
        verify: read everything once, and verify the checksums.
    Raises:
        UserError: if the folder holds no features, is unfinished, or is found damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    if record is None:
        raise UserError(f"{folder} holds no features: there is no readable store.json in it.")
    shards = Shards(folder, record)
    if verify and (damaged := find_damaged(shards, range(len(shards)))):
        raise UserError(
            f"{shards.path(damaged[0])} is damaged, one of {len(damaged)}; the same extraction, run again, repairs it."
        )
    return FeatureStore(shards)


def find_damaged(shards: Shards, which: Sequence[int], advance: Callable[[int], None] | None = None) -> list[int]:
    """List the finished shards whose checksum differs from the recorded one.

    Args:
        advance: called with 1 after each shard.
    """
    damaged = []
    with ThreadPoolExecutor(_CHECKING) as pool:  # hashing releases the GIL
        for shard, bad in zip(which, pool.map(shards.damaged, which), strict=True):
            if bad:
                damaged.append(shard)
            if advance is not None:
                advance(1)
    return damaged
