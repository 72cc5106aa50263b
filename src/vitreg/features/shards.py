"""Features on disk: a folder of safetensors shards, each with its checksum in a small JSON beside it, and store.json.

A shard holds a contiguous range of a set. Its JSON is written last, so a shard without one is unfinished and is
computed again; nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field, ValidationError
from torch import Tensor

from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.records import PrecisionChoice, Record, Skipped
from vitreg.writing.files import replacing

StoredType = Literal["float32", "float16"]

SHARD_BYTES = 64 << 20  # target
MOST_BYTES = 256 << 20  # limit where a single batch exceeds the target
MOST_IMAGES = 1024  # so an interruption costs at most this many forward passes
_NUMPY = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8}
_TORCH: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


class FieldRecord(Record):
    """One kind of feature: its shape for one image and its stored type."""

    shape: list[int]
    dtype: StoredType

    @property
    def bytes(self) -> int:
        """Of one image."""
        return math.prod(self.shape) * torch.finfo(self.torch_dtype).bits // 8

    @property
    def torch_dtype(self) -> torch.dtype:
        """Stored type of the values."""
        return _TORCH[self.dtype]


class StoreRecord(Record):
    """``store.json``: where the features come from, and how they are cut into shards."""

    schema_: Literal["vitreg.features/1"] = Field(default="vitreg.features/1", alias="schema")
    key: str = Field(description="16 hexadecimal digits that follow from `made_from`")
    images: int = Field(description="of the set, unreadable ones included")
    per_shard: int = Field(description="images of the set in every shard but the last")
    batch: int = Field(description="images that passed through the model at once")
    depth: int = Field(description="blocks of the model: block -1 is depth - 1")
    grid: tuple[int, int] = Field(description="rows, cols of the patches")
    fields: dict[str, FieldRecord]
    made_from: dict[str, Any] = Field(description="model, transform, data and what was asked for")
    precision_choice: PrecisionChoice | None = Field(default=None, description="null where a precision was named")
    notes: list[str] = Field(
        default_factory=list, description="on the set when it was last opened, such as what was left out"
    )


class ShardRecord(Record):
    """The JSON beside a shard."""

    start: int = Field(description="place in the set of its first image")
    stop: int = Field(description="place in the set after its last image")
    rows: int = Field(description="images that could be read")
    bytes: int
    sha256: str
    skipped: list[Skipped] = Field(description="the others, with reasons")


def cut(fields: Mapping[str, FieldRecord], batch: int) -> tuple[int, int]:
    """Choose (images per shard, images per batch): whole batches, about 64 MiB, at most 256 MiB."""
    size = max(1, sum(field.bytes for field in fields.values()))
    batch = max(1, min(batch, MOST_BYTES // size))
    return max(1, min(SHARD_BYTES // size, MOST_IMAGES) // batch) * batch, batch


class Shards:
    """The shards of one folder."""

    def __init__(self, folder: Path, record: StoreRecord) -> None:
        self.folder, self.record = folder, record

    def __len__(self) -> int:
        """Count the shards, including missing ones."""
        return -(-self.record.images // self.record.per_shard)

    def path(self, shard: int) -> Path:
        """Return the safetensors file of a shard."""
        return self.folder / f"{shard:06d}.safetensors"

    def note(self, shard: int) -> Path:
        """Return the JSON file of a shard."""
        return self.folder / f"{shard:06d}.json"

    def range(self, shard: int) -> range:
        """Return the indices of the set that a shard covers."""
        start = shard * self.record.per_shard
        return range(start, min(start + self.record.per_shard, self.record.images))

    def finished(self, shard: int) -> ShardRecord | None:
        """Return the record of a finished shard, else None. The checksum is not verified."""
        try:
            record = ShardRecord.model_validate_json(self.note(shard).read_bytes())
            size = self.path(shard).stat().st_size
        except (OSError, ValidationError):
            return None
        places = self.range(shard)
        whole = (record.start, record.stop, record.rows + len(record.skipped)) == (
            places.start,
            places.stop,
            len(places),
        )
        return record if whole and size == record.bytes else None

    def missing(self) -> list[int]:
        """List the shards that are not finished."""
        return [shard for shard in range(len(self)) if self.finished(shard) is None]

    def begun(self, shard: int) -> bool:
        """Whether a shard was once finished: its JSON exists."""
        return self.note(shard).exists()

    def damaged(self, shard: int) -> bool:
        """Read a shard that was once finished, and verify its checksum."""
        if not self.begun(shard):
            return False
        record = self.finished(shard)
        if record is None:
            return True
        try:
            with self.path(shard).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() != record.sha256
        except OSError:
            return True

    def discard(self, shard: int) -> None:
        """Delete a shard, including drafts of killed processes."""
        self.note(shard).unlink(missing_ok=True)
        for left in self.folder.glob(f".{shard:06d}.*.part"):
            left.unlink(missing_ok=True)

    def write(
        self,
        shard: int,
        rows: Int64[Tensor, " n"],
        values: Mapping[str, Tensor],
        names: Sequence[str],
        skipped: Sequence[Skipped],
    ) -> None:
        """Write a shard as a whole or not at all.

        Args:
            rows: indices of its images in the set, ascending.
            values: values [n, ...] of every field.
            names: names of the images.
        Raises:
            UserError: if the disk is full or the folder cannot be written.
        """
        from safetensors.torch import save

        text = torch.frombuffer(bytearray(json.dumps(list(names)).encode()), dtype=torch.uint8)
        data = save({**{name: value.contiguous() for name, value in values.items()}, "rows": rows, "names": text})
        places = self.range(shard)
        record = ShardRecord(
            start=places.start,
            stop=places.stop,
            rows=len(rows),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            skipped=list(skipped),
        )
        with replacing(self.path(shard)) as temporary:
            temporary.write_bytes(data)
        with replacing(self.note(shard)) as temporary:
            temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")

    def map(self, shard: int) -> dict[str, np.ndarray]:
        """Map the arrays of a shard into memory; nothing is read yet.

        Raises:
            UserError: if the file is missing or not a shard.
        """
        path = self.path(shard)
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > path.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = parse_json(file.read(length))
            whole = np.memmap(path, np.uint8, "r")
            return {
                name: whole[8 + length + about["data_offsets"][0] : 8 + length + about["data_offsets"][1]]
                .view(_NUMPY[about["dtype"]])
                .reshape(about["shape"])
                for name, about in header.items()
                if name != "__metadata__"
            }
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise UserError(f"cannot read {path} ({error}); extract the features again.") from error


def read_record(folder: Path) -> StoreRecord | None:
    """Read ``store.json``; None if there is none, or it is damaged."""
    try:
        return StoreRecord.model_validate_json((folder / "store.json").read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(folder: Path, record: StoreRecord) -> None:
    """Write ``store.json`` and delete drafts of killed processes. Raises UserError if the folder cannot be written."""
    for left in folder.glob(".store.json.*.part"):
        left.unlink(missing_ok=True)
    with replacing(folder / "store.json") as temporary:
        temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
