"""Images with captions from a table: .json, .csv or .tsv, one row per image."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitreg.data.sets.example import Example, Strings, picture, some
from vitreg.data.sets.folders import VALIDATION
from vitreg.data.sources.archives import is_url
from vitreg.data.sources.parts import OnDisk, label
from vitreg.documents import TABLE_LIMIT, parse_json, read_text
from vitreg.errors import UserError, unknown

Split = Literal["train", "val"]

IMAGE_KEYS = ("filepath", "image", "file", "filename", "file_name", "image_path")
CAPTION_KEYS = ("captions", "caption", "title", "text")
_LOOKED_AT = 100


class TableSet:
    """Images and captions that a table names.

    A .json is a list of objects, whose caption is a text or a list of texts; a .csv or .tsv has a header. Paths are
    relative to the table, or to a folder `images` beside it. Rows that carry a "split" are sorted by it.

    Args:
        path: of the table.
        split: which rows, of a table whose rows carry one.
        image_key, caption_key: name the columns; usual names are found by themselves.
        captions: without them only the images are read, those without caption too.
    Raises:
        UserError: for a table that cannot be read, a column that is not there, images that are not there, no caption.
    """

    def __init__(
        self,
        path: str,
        split: Split,
        *,
        image_key: str | None = None,
        caption_key: str | None = None,
        captions: bool = True,
    ) -> None:
        rows = _rows(path)
        names = splits(rows)
        if names:
            chosen = "train" if split == "train" else next((name for name in VALIDATION if name in names), None)
            rows = [row for row in rows if _side(row) == chosen]
        if not rows:
            raise UserError(f"no row of the {split} side in '{label(path)}', whose sides are {some(sorted(names))}.")
        image_key = _key(rows, image_key, IMAGE_KEYS, "image", path)
        texts = [[] for _ in rows]
        if captions:
            caption_key = _key(rows, caption_key, CAPTION_KEYS, "caption", path)
            texts = [caption_list(row.get(caption_key)) for row in rows]
        kept = [
            (str(row[image_key]), text)
            for row, text in zip(rows, texts, strict=True)
            if row.get(image_key) and (text or not captions)
        ]
        if not kept:
            raise UserError(f"none of {len(rows)} rows of '{label(path)}' has an image and a caption.")
        lost = len(rows) - len(kept)
        what = "image or no caption" if captions else "image"
        self.notes: tuple[str, ...] = ()
        if lost:
            self.notes = (f"{lost} of {len(rows)} rows of '{label(path)}' have no {what} and are not used.",)
        self.classes, self.labels = None, None
        self._captions = Strings(text for _, texts in kept for text in texts) if captions else None
        self._ends = np.cumsum([0, *(len(texts) for _, texts in kept)])
        folder = _base(path, [name for name, _ in kept[:_LOOKED_AT]])
        self._paths = Strings(os.path.join(folder, name) for name, _ in kept)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._paths)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        image = picture(OnDisk(self.name(index), self._paths[index]))
        if self._captions is None:
            return Example(image)
        return Example(image, self._captions[int(self._ends[index]) : int(self._ends[index + 1])])

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return label(self._paths[index])


def has_validation(path: str) -> bool:
    """Say whether a table has rows of a validation or test side."""
    return bool(splits(_rows(path)) & set(VALIDATION))


def splits(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Collect the names of the sides that rows belong to; empty where they have none."""
    return {side for row in rows if (side := _side(row))}


def _side(row: Mapping[str, Any]) -> str:
    return str(row.get("split") or "").strip().lower()


def caption_of(content: object, key: str | None) -> object:
    """Return what a JSON object holds under the caption's key."""
    if not isinstance(content, dict):
        return None
    return next((content[name] for name in ([key] if key else CAPTION_KEYS) if name in content), None)


def caption_list(value: object) -> list[str]:
    """Make a list of what a caption is given as: a text, several, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _rows(path: str) -> list[dict[str, Any]]:
    try:
        text = read_text(Path(path), limit=TABLE_LIMIT, what="a table; shards hold more")
        if path.lower().endswith(".json"):
            rows = parse_json(text)
        else:
            file = io.StringIO(text, newline="")
            rows = list(csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ","))
    except (ValueError, csv.Error) as error:
        raise UserError(f"'{label(path)}' is no valid table: {str(error).rstrip('.')}.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"'{label(path)}' is no list of objects such as {{'image': ..., 'captions': [...]}}.")
    if not rows:
        raise UserError(f"the table '{label(path)}' is empty.")
    return rows


def _key(rows: Sequence[dict[str, Any]], asked: str | None, usual: Sequence[str], what: str, path: str) -> str:
    """Find the column: the one asked for, or the first usual name that a row has."""
    columns = {column: None for row in rows[:_LOOKED_AT] for column in row if isinstance(column, str)}  # pyright: ignore[reportUnnecessaryIsInstance]  # of a .csv with too many fields it may be None
    for name in (asked,) if asked else usual:
        if name in columns:
            return name
    if asked:
        raise unknown("column", asked, columns, where=f"'{label(path)}'")
    raise UserError(
        f"no column of the {what} in '{label(path)}', which has {', '.join(columns)}; name it with --data.{what}-key."
    )


def _base(path: str, names: Sequence[str]) -> str:
    """Return the folder that relative paths start from: that of the table, or `images` in it."""
    if any(map(is_url, names)):
        raise UserError(
            f"'{label(path)}' names images behind URLs; fetch them first (img2dataset makes shards of them)."
        )
    folder = os.path.dirname(os.path.abspath(path))
    for base in (folder, os.path.join(folder, "images")):
        if any(os.path.exists(os.path.join(base, name)) for name in names):
            return base
    raise UserError(
        f"none of the first {len(names)} images of '{label(path)}' exists, such as '{label(names[0])}' in '{folder}'."
    )
