"""Weights that are cut into several files, with an index that says which tensor is where.

The index is untrusted: every path in it must stay inside its folder. Both libraries that write such files
(safetensors and PyTorch's .bin, as transformers names them) use the same index.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from vitreg.documents import read_json
from vitreg.errors import UserError

INDEX = ".index.json"


def is_index(path: Path) -> bool:
    """Tell by its name whether a file is the index of sharded weights."""
    return path.name.endswith(INDEX)


def indexes(folder: Path) -> list[Path]:
    """List the indexes in a folder, safetensors before PyTorch's."""
    found = (path for path in folder.iterdir() if is_index(path) and path.is_file())
    return sorted(found, key=lambda path: ("safetensors" not in path.name, path.name))


def read_index(index: Path) -> dict[Path, list[str]]:
    """Read an index.

    Returns:
        the files it names, which all exist inside the index's folder, and the tensors of each.
    Raises:
        UserError: if it is no index, names a path outside its folder, or a file that is missing.
    """
    document = read_json(index)
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index.name} is no index of sharded weights: it has no 'weight_map' of names and files.")
    by_name: dict[str, list[str]] = {}
    for tensor, name in places.items():
        by_name.setdefault(name, []).append(tensor)
    for name in by_name:
        if not _stays_inside(name):
            raise UserError(f"{index.name} names {name!r}, a path outside its folder; vitreg does not follow it.")
    missing = sorted(name for name in by_name if not os.path.isfile(index.parent / name))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{index.name} names {missing[0]}{more}, missing in {index.parent}; fetch all of its files.")
    for name in by_name:
        _refuse_link_outside(index.parent / name, index.parent)
    return {index.parent / name: tensors for name, tensors in by_name.items()}


def refuse_bad_indexes(folder: Path) -> None:
    """Check every index of a folder before a library follows it.

    Raises:
        UserError: as `read_index` does.
    """
    for index in indexes(folder):
        read_index(index)


def refuse_links_outside(folder: Path) -> None:
    """Refuse a folder that holds links to files elsewhere, before a library reads them.

    Raises:
        UserError: naming the link.
    """
    for path in sorted(folder.iterdir()):
        _refuse_link_outside(path, folder)


def _refuse_link_outside(path: Path, folder: Path) -> None:
    real, home = path.resolve(), folder.resolve()
    # The cache of the hub keeps each file of `snapshots/COMMIT` as a link to a file of `blobs`.
    blobs = (home.parent.parent / "blobs").resolve() if home.parent.name == "snapshots" else None
    if not real.is_relative_to(home) and real.parent != blobs:
        raise UserError(f"{path} leads to {real}, outside its folder; vitreg does not follow it: copy the file.")


def _stays_inside(name: str) -> bool:
    """Whether a relative path, read as POSIX or as Windows would, stays below where it starts."""
    if not name or "\0" in name:
        return False
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return not any(path.is_absolute() or path.anchor or ".." in path.parts for path in paths)
