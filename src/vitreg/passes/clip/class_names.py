"""Class names for sentences: ImageNet's cleaned names, folder names, or a file from the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vitreg.data.sets.example import some
from vitreg.documents import read_text
from vitreg.errors import UserError

_WNID = re.compile(r"n\d{8}")


def words_for(classes: Sequence[str], names: Path | None = None) -> tuple[list[str], str]:
    """Return a name in words for each class, and the source of the names.

    Args:
        classes: the set's classes: WordNet ids of ImageNet, folders such as 001.Black_footed_Albatross.
        names: a text file with one line per class, in their order, or with lines of class, tab, name.
    Raises:
        UserError: for a file that does not name each class, or WordNet ids outside ImageNet-1k.
    """
    if names is not None:
        return _read(names, classes), names.name
    if all(_WNID.fullmatch(name) for name in classes):
        return _of_imagenet(classes), "open_clip's names of ImageNet's classes"
    return [_plain(name) for name in classes], "the names of the classes in the set"


def numbered(names: Path) -> list[str]:
    """Return the names of classes that are numbers from 0 on.

    Args:
        names: as for `words_for`; with tabs, the class is its number.
    Raises:
        UserError: for fewer than two classes, and as `words_for` does.
    """
    lines = [line for line in read_text(names, what="the names of classes").splitlines() if line.strip()]
    if len(lines) < 2:
        raise UserError(f"{names} names {len(lines)} classes, and there is nothing to tell apart with less than 2.")
    return words_for([str(number) for number in range(len(lines))], names)[0]


def _of_imagenet(classes: Sequence[str]) -> list[str]:
    import open_clip
    from timm.data.imagenet_info import ImageNetInfo

    words = dict(zip(ImageNetInfo("imagenet-1k").label_names(), open_clip.IMAGENET_CLASSNAMES, strict=True))
    strange = [name for name in classes if name not in words]
    if strange:
        raise UserError(f"{some(strange)} are no classes of ImageNet-1k; name them in words with --names FILE.")
    return [words[name] for name in classes]


def _plain(name: str) -> str:
    head, dot, rest = name.partition(".")
    return " ".join(re.sub(r"[_/]", " ", rest if dot and head.isdigit() else name).split()) or name


def _read(file: Path, classes: Sequence[str]) -> list[str]:
    lines = [line.rstrip() for line in read_text(file, what="the names of classes").splitlines() if line.strip()]
    if lines and all("\t" in line for line in lines):
        words = dict(line.split("\t", 1) for line in lines)
        missing = [name for name in classes if name not in words]
        if missing:
            raise UserError(f"{file} does not name {some(missing)}.")
        return [words[name].strip() for name in classes]
    if len(lines) != len(classes):
        raise UserError(f"{file} has {len(lines)} lines for {len(classes)} classes; one name for each is wanted.")
    return [line.strip() for line in lines]
