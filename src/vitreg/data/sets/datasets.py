"""Training sets: from the settings to samples in any storage, and warnings about them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np

from vitreg.data.sets.captions import TableSet, has_validation
from vitreg.data.sets.example import Example, Portion, TrainingSet, some
from vitreg.data.sets.folders import VALIDATION, FolderSet, class_names, training_folder, validation_folder
from vitreg.data.sets.named import KNOWN, PREFIX, NamedSet, name_and_folder
from vitreg.data.sets.settings import DataConfig
from vitreg.data.sets.shards import ShardSet, expand_shards
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.opened import training_set
from vitreg.data.sources.archives import is_archive, is_url
from vitreg.data.sources.listing import find
from vitreg.data.sources.remote import cache_folder
from vitreg.errors import UserError

__all__ = ["Example", "TrainingSet", "concerns", "open_training_set"]

_TABLES = (".json", ".csv", ".tsv")
_UNEQUAL = 10
_Found = Literal["folder", "shards", "table", "torchvision", "synthetic"]


@overload
def open_training_set(config: DataConfig, split: Literal["train"], *, captions: bool) -> TrainingSet: ...
@overload
def open_training_set(
    config: DataConfig, split: Literal["val"], *, captions: bool, classes: Sequence[str] | None = None
) -> TrainingSet | None: ...
def open_training_set(
    config: DataConfig, split: Literal["train", "val"], *, captions: bool, classes: Sequence[str] | None = None
) -> TrainingSet | None:
    """Open one side of the data. Files are listed and shards indexed, but nothing is decoded.

    Args:
        captions: targets are captions instead of classes.
        classes: of the training side, so that numbers mean the same on both; looked up there if not given.
    Returns:
        the set; None where there is no validation side.
    Raises:
        UserError: for data that do not exist, hold no image, or have no captions where they are asked for.
    """
    if not config.root:
        raise UserError("no training images given; name them with --data.root.")
    if split == "train":
        kind, places = _training_side(config, captions)
    else:
        side = _validation_side(config, captions)
        if side is None:
            return None
        kind, places = side
        if classes is None and not captions:
            classes = open_training_set(config, "train", captions=False).classes
    opened = _open(config, kind, places, split, captions, classes)
    limit = config.limit if split == "train" else config.limit_val
    if limit is not None and limit < 1:
        raise UserError(f"--data.limit{'' if split == 'train' else '-val'} {limit} leaves no image.")
    return opened if limit is None or limit >= len(opened) else Portion(opened, limit)


def concerns(data: TrainingSet, *, supervised: bool) -> list[str]:
    """Return warnings about a set before a run, a sentence each: samples left out, unequal classes.

    Args:
        supervised: the run learns the classes.
    Raises:
        UserError: if there is nothing to learn: no classes, or images of one only.
    """
    sentences = list(data.notes)
    if not supervised:
        return sentences
    if data.classes is None:
        raise UserError("supervised training needs classes: ROOT/<class>/* folders, or shards with .cls.")
    if data.labels is None:  # known while reading only
        return sentences
    counts = np.bincount(data.labels, minlength=len(data.classes))
    filled = np.flatnonzero(counts)
    if len(filled) < 2:
        raise UserError(
            f"all {len(data)} images are of one class, '{data.classes[filled[0]]}'; there is nothing to learn from labels."
        )
    empty = [data.classes[i] for i in np.flatnonzero(counts == 0)]
    if empty:
        have = "has" if len(empty) == 1 else "have"
        sentences.append(f"{len(empty)} of {len(counts)} classes {have} no image: {some(empty)}.")
    most, least = filled[counts[filled].argmax()], filled[counts[filled].argmin()]
    if counts[most] >= _UNEQUAL * counts[least]:
        sentences.append(
            f"the classes are unequal: '{data.classes[most]}' has {counts[most]} images, "
            f"'{data.classes[least]}' has {counts[least]}."
        )
    return sentences


def _open(
    config: DataConfig,
    kind: _Found,
    places: list[str],
    split: Literal["train", "val"],
    captions: bool,
    classes: Sequence[str] | None,
) -> TrainingSet:
    if captions and kind in ("folder", "torchvision"):
        raise UserError(f"'{places[0]}' has no captions; name a .json, .csv or .tsv, or shards with .txt.")
    if kind == "synthetic":
        drawn = named(places[0])
        assert drawn is not None
        return training_set(drawn, split, captions=captions, classes=classes)
    if kind == "folder":
        return FolderSet(places[0], classes)
    if kind == "table":
        keys = {"image_key": config.image_key, "caption_key": config.caption_key}
        return TableSet(places[0], split, **keys, captions=captions)
    if kind == "torchvision":
        return NamedSet(places[0], split, download=config.download)
    cache = cache_folder(config.cache)
    return ShardSet(places, captions=captions, cache=cache, caption_key=config.caption_key, classes=classes)


def _training_side(config: DataConfig, captions: bool) -> tuple[_Found, list[str]]:
    root = os.path.expanduser(config.root)
    kind = _kind(config, root, captions)
    if kind == "folder":
        return kind, [training_folder(root)]
    if kind == "shards":
        return kind, _shards_in(root, ("train",)) or _shards_in(root, ("",)) or expand_shards(root)
    return kind, [_table(root) if kind == "table" else root]


def _validation_side(config: DataConfig, captions: bool) -> tuple[_Found, list[str]] | None:
    """Find the validation side: the one in the settings, or the one beside the training side."""
    if config.val is not None:
        val = os.path.expanduser(config.val)
        kind = _kind(config, val, captions)
        if kind == "shards":
            return kind, _shards_in(val, VALIDATION) or _shards_in(val, ("",)) or expand_shards(val)
        return kind, [_table(val) if kind == "table" else val]
    root = os.path.expanduser(config.root)
    kind = _kind(config, root, captions)
    if kind == "shards":
        places = _shards_in(root, VALIDATION)
    elif kind == "folder":
        folder = validation_folder(root)
        places = [folder] if folder else []
    elif kind == "table":
        places = [_table(root)] if has_validation(_table(root)) else []
    elif kind == "synthetic":
        places = [root]
    else:
        places = [root] if KNOWN[name_and_folder(root)[0]].val is not None else []
    return (kind, places) if places else None


def _kind(config: DataConfig, path: str, captions: bool) -> _Found:
    """Return the kind of storage at a path.

    Raises:
        UserError: if nothing is there, or nothing that can be learned from.
    """
    if config.kind != "auto":
        return config.kind
    if path.startswith(PREFIX):
        return "torchvision"
    if named(path) is not None:
        return "synthetic"
    if os.path.isdir(path):
        if captions and os.path.isfile(_table(path)):
            return "table"
        return "shards" if not class_names(path) and _shards_in(path, ("",)) else "folder"
    if path.lower().endswith(_TABLES):
        return "table"
    if is_url(path) or is_archive(path):
        return "shards"
    find(path)  # says what is missing
    raise UserError(
        f"'{path}' is no training set: name a folder, shards (.tar), a table (.json, .csv, .tsv) or {PREFIX}NAME."
    )


def _table(path: str) -> str:
    """Return the table that a folder holds, or the path itself."""
    return os.path.join(path, "captions.json") if os.path.isdir(path) else path


def _shards_in(folder: str, prefixes: Sequence[str]) -> list[str]:
    """List the shards of a folder whose names begin with the first prefix that has any."""
    try:
        tars = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(".tar") and name[0] != "."]
    except OSError:
        return []
    found = ([os.path.join(folder, name) for name in tars if name.lower().startswith(prefix)] for prefix in prefixes)
    return next(filter(None, found), [])
