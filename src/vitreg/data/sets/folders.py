"""Image folders: ROOT/<class>/*, or one folder of images without classes for self-supervision."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from vitreg.data.sets.example import Example, Strings, picture, some
from vitreg.data.sources.decode import EXTENSIONS
from vitreg.data.sources.listing import find
from vitreg.data.sources.parts import Failed, Listed, OnDisk, label
from vitreg.errors import UserError

VALIDATION = ("val", "valid", "validation", "test")


class FolderSet:
    """The images of a folder.

    Its sub-folders are the classes, sorted by name and searched recursively as `ImageSource` does. A folder without
    sub-folders, or with images only outside them, is a set without classes.

    Args:
        root: the folder.
        classes: class names in the order of the training side, to number the classes by.
    Raises:
        UserError: for a folder without images or one that cannot be read, or a class that is not in `classes`.
    """

    def __init__(self, root: str, classes: Sequence[str] | None = None) -> None:
        found = class_names(root)
        notes: list[str] = []
        per_class = [_images(os.path.join(root, name), notes) for name in found]
        stray = _direct(root)
        if not any(per_class):
            self.classes, self.labels = None, None
            self._paths = Strings(stray or _images(root, notes, needed=True))
            self.notes: tuple[str, ...] = tuple(notes)
            return
        if classes is None:
            classes = [label(name) for name in found]
        strange = [label(name) for name in found if label(name) not in set(classes)]
        if strange:
            raise UserError(f"'{root}' has classes that the training side has not: {some(strange)}.")
        numbers = {name: number for number, name in enumerate(classes)}
        self.classes = tuple(classes)
        self.labels = np.repeat(
            np.array([numbers[label(name)] for name in found], np.int64), [len(paths) for paths in per_class]
        )
        self._paths = Strings(path for paths in per_class for path in paths)
        if stray:
            notes.append(
                f"{len(stray)} images lie directly in '{root}', beside the folders of classes, and are not used."
            )
        self.notes = tuple(notes)

    def __len__(self) -> int:
        """Count the image files."""
        return len(self._paths)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        target = None if self.labels is None else int(self.labels[index])
        return Example(picture(OnDisk(self.name(index), self._paths[index])), target)

    def name(self, index: int) -> str:
        """Return the path."""
        return label(self._paths[index])


def class_names(root: str) -> list[str]:
    """List the sub-folders of a folder, sorted, without hidden ones. Raises UserError if it cannot be read."""
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if os.path.isdir(e.path) and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read the folder '{root}': {(error.strerror or 'unknown error').lower()}.") from error


def inside(root: str, names: Sequence[str]) -> str | None:
    """Return the folder in ROOT with the first existing name of these; case is ignored, as in Train/."""
    try:
        there = sorted(os.listdir(root), reverse=True)
    except OSError:
        return None
    found = {name.lower(): name for name in there} | {name: name for name in there}  # the very name before others
    paths = (os.path.join(root, found[name]) for name in names if name in found)
    return next(filter(os.path.isdir, paths), None)


def validation_folder(root: str) -> str | None:
    """Return the folder of the validation images that lies beside ROOT/train, if there is one."""
    return inside(root, VALIDATION) if inside(root, ("train",)) else None


def training_folder(root: str) -> str:
    """Return ROOT/train where it exists, else ROOT."""
    return inside(root, ("train",)) or root


def _images(folder: str, notes: list[str], *, needed: bool = False) -> list[str]:
    """List the image files of a folder, and note files left out; an empty list is an error only if images are
    required."""
    try:
        parts = find(folder)
    except UserError:  # a class without images: `concerns` names it
        if needed:
            raise
        return []
    paths = []
    for part in parts:
        assert isinstance(part, Listed)  # what find gives for a folder
        notes += part.notes
        for locator in part.locators:
            if isinstance(locator, Failed):
                raise UserError(f"cannot read '{locator.name}': {locator.reason}.")
            assert isinstance(locator, OnDisk)
            paths.append(locator.path)
    return paths


def _direct(root: str) -> list[str]:
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if os.path.isfile(e.path) and not e.name.startswith("."))
    return [os.path.join(root, name) for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS]
