"""Sheets as a file beside their record, so that `vitreg draw` redraws the same PNG without a model.

The words are JSON; every cell is one array, stored once even if shown often. Maps are half floats with a power of two
(relative error below 1/2048, less than a step of a colour scale); pictures are PNG, or JPEG where that is far smaller.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitreg.report.attempts import Attempts
from vitreg.report.npz import read_npz, read_picture, write_npz
from vitreg.report.sheets import sheet as sheets_drawn
from vitreg.report.sheets.sheet import Column, Scale, Sheet, save_all

LONGEST_SIDE = round(sheets_drawn.LARGEST * sheets_drawn.DPI)  # pixels of the largest cell
Named = tuple[str, Sheet]  # file name, sheet
_WORDS = [field.name for field in fields(Sheet) if field.name not in ("columns", "scale")]


def keep_and_draw(sheets: Sequence[Named], folder: Path, kept: str, attempts: Attempts) -> None:
    """Keep sheets as ``folder/kept`` and draw them from there, so that redrawing gives the same pixels.

    Raises:
        UserError: if the folder cannot be written.
    """
    save_all(as_kept(sheets, folder, kept, attempts), folder, attempts)


def as_kept(sheets: Sequence[Named], folder: Path, kept: str, attempts: Attempts) -> Sequence[Named]:
    """Keep sheets as ``folder/kept`` (unless there are none), and return them as read from the file.

    Raises:
        UserError: if the folder cannot be written.
    """
    if not sheets:
        return sheets
    return attempts(kept, lambda: read_sheets(write_sheets(sheets, folder / kept))) or sheets


def write_sheets(sheets: Sequence[Named], path: Path) -> Path:
    """Write sheets and the names of their PNG files into one file.

    Raises:
        ValueError: if the sheets are too large to keep.
        UserError: if the folder cannot be written.
    """
    cells = _Cells()
    words = [
        {
            "file": name,
            **{word: getattr(sheet, word) for word in _WORDS},
            "scale": None if sheet.scale is None else {f.name: getattr(sheet.scale, f.name) for f in fields(Scale)},
            "columns": [
                {"title": column.title, "group": column.group, "cells": [cells.number(cell) for cell in column.cells]}
                for column in sheet.columns
            ],
        }
        for name, sheet in sheets
    ]
    text = json.dumps({"schema": "vitreg.sheets/1", "sheets": words, "exponents": cells.exponents}, default=list)
    return write_npz(path, {"sheets": np.frombuffer(text.encode(), np.uint8), **cells.arrays})


def read_sheets(path: Path) -> list[Named]:
    """Read the sheets of `write_sheets`.

    Raises:
        ValueError: if the file is missing, damaged, too large, or of another kind.
    """

    def build(arrays: np.lib.npyio.NpzFile) -> list[Named]:
        known = json.loads(arrays["sheets"].tobytes())
        if known["schema"] != "vitreg.sheets/1":
            raise ValueError(f"{path.name} is of the schema {known['schema']}")
        read: dict[str, np.ndarray] = {}

        def cell(number: int | None) -> np.ndarray | None:
            if number is None:
                return None
            key = str(int(number))
            if key not in read:
                read[key] = _cell(arrays[key], known["exponents"].get(key))
            return read[key]

        return [(_file(each["file"]), _sheet(each, cell)) for each in known["sheets"]]

    return read_npz(path, build)


class _Cells:
    """The cells of sheets, numbered; equal cells share a number."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.exponents: dict[str, int] = {}
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def number(self, cell: np.ndarray | None) -> int | None:
        if cell is None:
            return None
        seen = (cell.dtype.str, cell.shape, cell.tobytes())
        if seen not in self._numbers:
            number = self._numbers[seen] = len(self._numbers)
            if cell.dtype == np.uint8:
                self.arrays[str(number)] = _encoded(cell)
            else:
                self.arrays[str(number)], self.exponents[str(number)] = _halved(cell)
        return self._numbers[seen]


def _halved(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return half floats in -1..1 and the exponent of two to multiply them by; NaN and inf stay."""
    values = np.asarray(values, np.float64)
    finite = np.abs(values[np.isfinite(values)])
    exponent = int(np.frexp(finite.max(initial=0.0))[1])
    return np.ldexp(values, -exponent).astype(np.float16), exponent


def _encoded(picture: np.ndarray) -> np.ndarray:
    """Encode as PNG, or as JPEG if that is at most half as large: so photographs, but not flat colours, which JPEG blurs."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    contents = []
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 92, "subsampling": 0})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        contents.append(buffer.getvalue())
    exact, small = contents
    return np.frombuffer(small if 2 * len(small) < len(exact) else exact, np.uint8)


def _cell(kept: np.ndarray, exponent: int | None) -> np.ndarray:
    if exponent is None:
        return read_picture(kept, LONGEST_SIDE)
    colours = kept.ndim == 3 and kept.shape[2] == 3
    if kept.dtype != np.float16 or not (kept.ndim == 2 or colours) or not kept.size or abs(exponent) > 1100:
        raise ValueError("a map in it is none")
    return np.ldexp(kept.astype(np.float64), exponent)


def _file(name: object) -> str:
    """Return the name of a PNG file; refuse one that leaves the folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[^./\\\0][^/\\\0]*\.png", name):
        raise ValueError("a sheet in it has no name of a PNG file")
    return name


def _sheet(known: dict[str, Any], cell: Any) -> Sheet:
    columns = [replace(Column(**each), cells=[cell(number) for number in each["cells"]]) for each in known["columns"]]
    scale = None if known["scale"] is None else Scale(**known["scale"])
    return Sheet(columns=columns, scale=scale, **{word: known[word] for word in _WORDS})
