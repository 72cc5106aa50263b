"""Pooled features as one Parquet table, one row per image."""

from __future__ import annotations

from pathlib import Path

from vitreg.errors import UserError
from vitreg.features.store import FeatureStore
from vitreg.writing.files import replacing

_ROWS = 4096  # rows in memory at once, and per row group


def pooled(store: FeatureStore) -> list[str]:
    """Name the fields that are one vector for each image."""
    return [name for name in store if "/".join(name.split("/")[-2:-1]) in ("cls", "mean")]


def write_table(store: FeatureStore, path: Path) -> None:
    """Write row (index in the set), name, and every pooled field as a list of fixed length, in its stored type.

    Raises:
        UserError: if there is no pooled field, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = pooled(store)
    if not fields:
        raise UserError("a table holds cls and mean features only, and none were asked for.")
    types = {"float32": pa.float32(), "float16": pa.float16()}
    about = {name: store.record.fields[name] for name in fields}
    columns = {name: pa.list_(types[field.dtype], field.shape[0]) for name, field in about.items()}
    schema = pa.schema({"row": pa.int64(), "name": pa.string(), **columns})
    names = store.names
    with replacing(path) as draft, draft.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        for start in range(0, store.images, _ROWS):
            stop = min(start + _ROWS, store.images)
            arrays = [pa.array(store.rows[start:stop]), pa.array(names[start:stop])]
            for name, field in about.items():
                values = store[name][start:stop].to(field.torch_dtype).numpy().reshape(-1)
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values), field.shape[0]))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
