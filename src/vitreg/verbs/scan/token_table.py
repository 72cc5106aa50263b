"""`tokens.parquet`: one row per image, layer and token, written from the spill file in constant memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitreg.analysis.norms import decode
from vitreg.analysis.tally import Tally
from vitreg.machine.runtime import Processes
from vitreg.verbs.scan.readout import Readout
from vitreg.writing.files import replacing

SCHEMA = pa.schema(
    [
        ("image", pa.dictionary(pa.int32(), pa.string())),
        ("layer", pa.int16()),
        ("row", pa.int16()),  # -1 for tokens that are not patches
        ("col", pa.int16()),
        ("role", pa.dictionary(pa.int32(), pa.string())),
        ("norm", pa.float32()),
        ("outlier", pa.bool_()),
    ]
)
ROLES = ("cls", "register", "other", "patch")


def write_token_table(folder: Path, tally: Tally, readout: Readout, group: Processes) -> Path:
    """Write the norm of every token present; each process writes a file for its images."""
    part = "" if group.world == 1 else f"-{group.rank:05d}-of-{group.world:05d}"
    path = folder / f"tokens{part}.parquet"
    layout, layers = tally.layout, tally.layers
    rows, cols = layout.grid
    row, col = np.full(layout.length, -1, np.int16), np.full(layout.length, -1, np.int16)
    places = layout.patch_index.numpy()
    row[places], col[places] = np.divmod(np.arange(rows * cols), cols)
    role = np.array([ROLES.index(r) for r in layout.roles()], np.int32)
    patch = role == ROLES.index("patch")
    start = 0
    with (
        replacing(path) as draft,
        draft.open("wb") as file,  # pyarrow takes UTF-8 names only
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
    ):
        for codes, _ in tally.tokens(images=32):
            count = len(codes)
            names = tally.names[start : start + count]
            start += count
            outlier = np.stack([readout.outliers(codes[:, layer], layer) & patch for layer in range(layers)], axis=1)
            shape = codes.shape  # [n, L, N]
            image = np.broadcast_to(np.arange(count, dtype=np.int32)[:, None, None], shape)
            layer = np.broadcast_to(np.arange(layers, dtype=np.int16)[None, :, None], shape)
            there = np.broadcast_to(tally.present[1:], shape).ravel()
            columns = [
                pa.DictionaryArray.from_arrays(image.ravel(), names),
                pa.array(layer.ravel()),
                pa.array(np.broadcast_to(row, shape).ravel()),
                pa.array(np.broadcast_to(col, shape).ravel()),
                pa.DictionaryArray.from_arrays(np.broadcast_to(role, shape).ravel(), list(ROLES)),
                pa.array(decode(codes).ravel()),
                pa.array(outlier.ravel()),
            ]
            table = pa.Table.from_arrays(columns, schema=SCHEMA)
            writer.write_table(table if there.all() else table.filter(pa.array(there)))
    return path
