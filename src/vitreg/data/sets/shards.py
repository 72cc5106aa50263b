"""WebDataset shards as a training set with random access: local tars, and URLs through a cache."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
from jaxtyping import Int32, Int64

from vitreg.data.sets.captions import caption_list, caption_of
from vitreg.data.sets.example import Example, picture, some
from vitreg.data.sources.archives import is_archive, is_url
from vitreg.data.sources.decode import Unreadable
from vitreg.data.sources.listing import expand_braces, matching
from vitreg.data.sources.members import InTar
from vitreg.data.sources.parts import label, os_reason
from vitreg.data.sources.remote import cached, fetch, fetch_text
from vitreg.data.sources.tar_index import ShardIndex, index_shard, read_text
from vitreg.errors import UserError

_MOST_CLASSES = 1 << 20  # a number above would have a name made for each below it


class ShardSet:
    """Samples of WebDataset shards: an image with a .cls for its class or a .txt for its caption, or a .json for either.

    A .json has the class under "cls", "label" or "class".
    Every shard is indexed once, when the set is opened, and never extracted. All shards behind URLs are first fetched
    into the cache, unless two small files exist beside them: `sizes.json`, as in OpenCLIP and webdataset ({"000.tar":
    10000, ...}), has the number of samples per shard, `classes.json` the names of the classes. Then the first process
    that reads from a shard fetches it. `classes.json` names the classes of local shards too.

    Args:
        shards: paths or URLs.
        captions: read captions instead of classes.
        caption_key: key of the caption in .json members.
        classes: names of the classes of the training side.
        cache: folder for shards behind URLs.
    Raises:
        UserError: for a shard that cannot be read, no image, a class number without a name, or no captions at all.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        captions: bool,
        cache: Path,
        caption_key: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.captions, self.cache, self.caption_key = captions, cache, caption_key
        self._shards = list(shards)
        self._opened: dict[int, ShardIndex] = {}
        self.notes: tuple[str, ...] = ()
        self.labels: Int64[np.ndarray, " n"] | None = None
        self._rows: Int32[np.ndarray, "n 2"] | None = None  # (shard, row) of each sample
        self._starts: Int64[np.ndarray, " shards+1"] = np.zeros(1, np.int64)  # or only where each shard begins
        names = None if captions else classes or _named_classes(self._shards[0])
        self.classes = tuple(names) if names is not None else None
        sizes = _sizes(self._shards) if captions or names is not None else None
        if sizes is None:
            self._first_pass()
        else:
            self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """Count the samples."""
        return int(self._starts[-1]) if self._rows is None else len(self._rows)

    def read(self, index: int) -> Example:
        """Decode one sample, after fetching its shard if it is not cached. Raises Unreadable, UserError."""
        number, row = self._place(index)
        shard, path = self._open(number), self._path(number)
        if row >= len(shard.names):
            raise Unreadable(f"the shard has {len(shard.names)} samples, fewer than sizes.json says")
        locator = InTar(self._member(number, row), path, int(shard.images[row, 0]), int(shard.images[row, 1]))
        if self.captions:
            target = self._captions(shard, path, row)
        elif self.labels is not None:
            target = int(self.labels[index])
        else:
            target = self._class_of(shard, row)
        return Example(picture(locator), target)

    def name(self, index: int) -> str:
        """Return shard/member, or the place in a shard that has not been fetched yet."""
        number, row = self._place(index)
        return self._member(number, row)

    def _member(self, number: int, row: int) -> str:
        shard = self._opened.get(number)
        known = shard is not None and row < len(shard.names)
        return label(f"{self._shards[number]}/{shard.names[row] if known and shard else row}")

    def _place(self, index: int) -> tuple[int, int]:
        if self._rows is not None:
            number, row = self._rows[index]
            return int(number), int(row)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _open(self, number: int) -> ShardIndex:
        if number not in self._opened:
            self._opened[number] = index_shard(self._path(number), captions=self.captions)
        return self._opened[number]

    def _path(self, number: int) -> str:
        shard = self._shards[number]
        if not is_url(shard):
            return shard
        # After the first reading the shard stays in the cache; checking again would cost a stat per sample.
        return str(cached(shard, self.cache) if number in self._opened else fetch(shard, self.cache))

    def _first_pass(self) -> None:
        """Index all shards, and keep the samples that have a target."""
        notes, places, texts, found = [], [], [], 0
        for number in range(len(self._shards)):
            shard = self._open(number)
            found += len(shard.names)
            has = shard.texts[:, 1] > 0
            if shard.classes is not None:
                has = np.array([value != "" for value in shard.classes], bool)
                texts.extend(shard.classes)
                self._opened[number] = _without_classes(shard)
            if shard.loss:
                count = len(shard.names)
                notes.append(
                    f"the shard '{label(self._shards[number])}' {shard.loss}; {count} samples were found in it."
                )
            places.append(np.stack([np.full(len(has), number), np.arange(len(has)), has], 1))
        rows = np.concatenate(places)  # [n, (shard, row, whether it has a target)]
        if not found:
            raise UserError(f"no image in {len(self._shards)} shards, such as '{label(self._shards[0])}'.")
        has = rows[:, 2].astype(bool)
        if self.captions and not has.any():
            raise UserError(f"no captions in the shards such as '{label(self._shards[0])}': no .txt, no .json.")
        if has.any():  # else images for self-supervision
            if not has.all():
                what = "caption" if self.captions else "class"
                notes.append(f"{int((~has).sum())} of {found} samples in the shards have no {what} and are not used.")
            rows = rows[has]
            if not self.captions:
                self._number([text for text, kept in zip(texts, has, strict=True) if kept])
        else:
            self.classes = None
        self._rows, self.notes = rows[:, :2].astype(np.int32), tuple(notes)
        if self.captions:
            self._check_captions()

    def _number(self, texts: list[str]) -> None:
        """Turn the classes of the samples into numbers: they are numbers already, or names."""
        distinct = set(texts)
        if self.classes is None:
            numbered = all(text.isdecimal() for text in distinct)
            longest = max(distinct, key=len)
            count = max(map(int, distinct)) + 1 if numbered and len(longest) < 20 else None
            if numbered and (count is None or count > _MOST_CLASSES):
                raise UserError(
                    f"the shards such as '{label(self._shards[0])}' have the class number {longest[:20]}; numbers count "
                    f"from 0, up to {_MOST_CLASSES}."
                )
            self.classes = tuple(map(str, range(count))) if count is not None else tuple(sorted(distinct))
        table = {text: _number_of(text, self.classes) for text in distinct}
        strange = sorted(text for text, number in table.items() if number is None)
        if strange:
            raise UserError(
                f"the shards such as '{label(self._shards[0])}' have classes that are not among the "
                f"{len(self.classes)} known ones: {some(strange)}."
            )
        self.labels = np.array([table[text] for text in texts], np.int64)

    def _class_of(self, shard: ShardIndex, row: int) -> int | None:
        if shard.classes is None or self.classes is None:
            return None  # a set without classes
        number = _number_of(shard.classes[row], self.classes)
        if number is None:
            raise Unreadable("its class is missing or unknown")
        return number

    def _captions(self, shard: ShardIndex, path: str, row: int) -> list[str]:
        offset, size = map(int, shard.texts[row])
        try:
            text = read_text(path, offset, size) if size > 0 else ""
            found: object = caption_of(json.loads(text), self.caption_key) if shard.json[row] and text else text
        except OSError as error:
            raise Unreadable(os_reason(error)) from error
        except (ValueError, RecursionError):
            raise Unreadable("its .json is damaged") from None
        captions = caption_list(found)
        if not captions:
            raise Unreadable("no caption")
        return captions

    def _check_captions(self) -> None:
        """Check the caption key on a few samples. The others are read with the images."""
        reasons = []
        for index in np.linspace(0, len(self) - 1, min(len(self), 20)).astype(int):
            number, row = self._place(index)
            try:
                self._captions(self._open(number), self._path(number), row)
                return
            except Unreadable as error:
                reasons.append(error.reason)
        key = self.caption_key or "caption"
        raise UserError(f"no captions in the shards such as '{label(self._shards[0])}' ({reasons[0]}; key '{key}').")


def expand_shards(where: str) -> list[str]:
    """Expand a path with braces and globs, or a URL with braces, to shards.

    Raises:
        UserError: if there is none, or one that does not exist.
    """
    found = []
    for path in expand_braces(os.path.expanduser(where)):
        if is_url(path) or os.path.isfile(path):
            found.append(path)
        elif glob.has_magic(path):
            found.extend(match for match in matching(path) if is_archive(match))
        else:
            raise UserError(f"no shard '{label(path)}'.")
    if not found:
        raise UserError(f"no shard matches '{label(where)}'.")
    return found


def _beside(shard: str, name: str) -> dict[str, Any] | list[Any] | None:
    """Read a JSON file that lies beside a shard, if there is one."""
    text = None
    if not is_url(shard):
        path = Path(shard).with_name(name)
        try:
            text = path.read_text("utf-8", "replace") if path.is_file() else None
        except OSError as error:
            raise UserError(f"cannot read '{label(str(path))}': {os_reason(error)}.") from error
    elif shard.startswith("http"):
        text = fetch_text(urljoin(shard, name))
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"the {name} beside '{label(shard)}' is no valid JSON.") from None


def _named_classes(shard: str) -> list[str] | None:
    names = _beside(shard, "classes.json")
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _sizes(shards: Sequence[str]) -> list[int] | None:
    """Return the samples per shard from sizes.json, if all shards are behind URLs and it exists."""
    if not all(map(is_url, shards)):
        return None
    tables: dict[str, dict[str, Any]] = {}
    sizes = []
    for shard in shards:
        folder, _, base = shard.split("?")[0].rpartition("/")
        if folder not in tables:
            table = _beside(shard, "sizes.json")
            tables[folder] = table if isinstance(table, dict) else {}
        size = tables[folder].get(base)
        if not isinstance(size, int) or not 0 < size < 1 << 40:
            return None
        sizes.append(size)
    return sizes


def _number_of(text: str, classes: tuple[str, ...]) -> int | None:
    if text.isdecimal():
        return int(text) if len(text) < 20 and int(text) < len(classes) else None
    return classes.index(text) if text in classes else None


def _without_classes(shard: ShardIndex) -> ShardIndex:
    return ShardIndex(shard.names, shard.images, shard.texts, shard.json, None, shard.loss)
