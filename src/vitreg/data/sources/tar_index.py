"""Index of a WebDataset shard: the tar members of each sample.

Only headers are read, several times faster than with `tarfile`. A truncated shard gives its readable part and a note.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from jaxtyping import Int64

from vitreg.data.sets.example import Strings
from vitreg.data.sources.archives import _images_of, _key
from vitreg.data.sources.parts import os_reason
from vitreg.data.sources.tar import CutShort, Member, packing, walk_tar
from vitreg.errors import UserError

_MAX_TEXT_BYTES = 1 << 20
_MAX_CLASS_CHARACTERS = 256
_CLASS_KEYS = ("cls", "label", "class")
_TEXTS = {True: (".txt", ".json"), False: (".cls", ".json")}


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of one shard.

    Args:
        names: of their images.
        images: (offset, size) of each image.
        texts: (offset, size) of the member that holds the class or the caption; size -1 where there is none.
        json: whether that member is a .json.
        classes: content of the .cls or .json members, "" if missing; only if classes were requested.
        loss: why the shard was not read to its end, if it was not.
    """

    names: Strings
    images: Int64[np.ndarray, "n 2"]
    texts: Int64[np.ndarray, "n 2"]
    json: np.ndarray
    classes: list[str] | None
    loss: str | None


def index_shard(path: str, *, captions: bool) -> ShardIndex:
    """Find the samples of a shard.

    Args:
        captions: look for captions (.txt, else .json) beside the images instead of classes (.cls, else .json).
    Raises:
        UserError: if the file cannot be read, or is compressed or no tar archive at all.
    """
    names: list[str] = []
    images: list[tuple[int, int]] = []
    texts: list[tuple[int, int]] = []
    in_json: list[bool] = []
    classes: list[str] = []
    loss, sparse = None, 0
    try:
        with open(path, "rb") as file:
            for _, sample in itertools.groupby(_until_cut(file), lambda member: member and _key(member.name)[0]):
                members = [member for member in sample if member is not None]
                held = {member.name: member for member in members if not member.sparse}
                sparse += len(members) - len(held)
                found = _text_of(held, captions=captions)
                is_json = found is not None and found.name.lower().endswith(".json")
                value = "" if captions or found is None else _class_value(_content(file, found), is_json)
                for name in _images_of(list(held)):
                    names.append(name)
                    images.append((held[name].offset, held[name].size))
                    texts.append((found.offset, found.size) if found else (0, -1))
                    in_json.append(is_json)
                    classes.append(value)
        if sparse:
            loss = f"has {sparse} sparse members, which are not read"
    except CutShort as cut:
        loss = str(cut)
    except OSError as error:
        raise UserError(f"cannot read the shard '{path}': {os_reason(error)}.") from error
    if loss is not None and not names:
        with open(path, "rb") as file:
            packed = packing(file.read(6))
        hint = (
            "is compressed, which leaves no way to read it in any order; unpack it to a plain .tar" if packed else loss
        )
        raise UserError(f"the shard '{path}' {hint}.")
    shape = (len(names), 2)
    return ShardIndex(
        Strings(names), np.array(images, np.int64).reshape(shape), np.array(texts, np.int64).reshape(shape),
        np.array(in_json, bool), None if captions else classes, loss,
    )  # fmt: skip


def read_text(path: str, offset: int, size: int) -> str:
    """Read a small member. Raises OSError."""
    with open(path, "rb") as file:
        return _content(file, Member("", offset, size))


def _until_cut(file: BinaryIO) -> Iterator[Member | None]:
    """Yield None before a cut, so that the sample before it is used as far as it is complete."""
    try:
        yield from walk_tar(file)
    except CutShort:
        yield None
        raise


def _text_of(sample: dict[str, Member], *, captions: bool) -> Member | None:
    by_extension = {_key(name)[1]: member for name, member in sample.items()}
    return next((by_extension[text] for text in _TEXTS[captions] if text in by_extension), None)


def _content(file: BinaryIO, member: Member) -> str:
    file.seek(member.offset)
    return file.read(min(member.size, _MAX_TEXT_BYTES)).decode("utf-8", "replace").strip()


def _class_value(text: str, is_json: bool) -> str:
    """Return the class that a .cls or .json member holds, "" for none."""
    if is_json and text:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        value = next((content[key] for key in _CLASS_KEYS if key in content), "") if isinstance(content, dict) else ""
        text = str(value) if isinstance(value, str | int) else ""
    return sys.intern(text) if len(text) <= _MAX_CLASS_CHARACTERS else ""  # a million samples share a thousand classes
