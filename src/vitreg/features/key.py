"""The key of stored features: everything that determines their values, as words and hashes.

Changing a weight, the preprocessing, the images or the wanted features gives another key; changing batch or workers does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.identity import code_of
from vitreg.data.sets.example import TrainingSet
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.opened import training_set
from vitreg.data.sources.decode import Unreadable
from vitreg.data.views.transforms import Policy, Preprocess
from vitreg.errors import UserError
from vitreg.features.fields import FieldReader
from vitreg.machine.runtime import versions

LIBRARIES = ("timm", "transformers", "open_clip", "torchvision", "hub", "vitreg")
_LOOKED_AT = 16  # images hashed by their pixels, of a set without files
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def made_from(
    backbone: Backbone,
    data: TrainingSet,
    preprocess: Preprocess,
    policy: Policy,
    size: tuple[int, int],
    reader: FieldReader,
) -> dict[str, Any]:
    """Return everything the features depend on.

    Args:
        size: (height, width) of the model's input.
    Raises:
        UserError: for a model with an edit that has no identity: its features must not be stored.
    """
    edits = backbone.edits_identity
    if backbone.hooked is not None:
        raise UserError(
            f"features of {backbone.spec} cannot be kept: its part '{backbone.hooked}' has hooks or a forward of its own, and "
            "their effect is unknown; remove them, or make them edits (Backbone.edited)."
        )
    if edits is None:
        raise UserError(
            f"features of {backbone.spec} cannot be kept: one of its edits is a function without identity; make it a frozen "
            "dataclass with __call__."
        )
    tower = backbone.anatomy.tower
    return {
        "model": {
            "spec": backbone.spec,
            "parameters_and_buffers": hash_of_values(tower),
            "structure": _short(_structure(tower)),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            **({"edits": edits} if edits else {}),
            **_own_code(backbone, size),
        },
        "transform": asdict(preprocess),
        "fit": {"policy": policy, "size": size},
        "wanted": {
            **{kind: blocks for kind, blocks in reader.blocks.items() if blocks},
            "final_norm": reader.final_norm,
            "mirrored": reader.mirrored,
            "types": {name: field.dtype for name, field in reader.fields.items()},
        },
        "data": {"images": len(data), "listing": hash_of_listing(data)},
        "packages": versions(),
    }


def _own_code(backbone: Backbone, size: tuple[int, int]) -> dict[str, str]:
    """Return what identifies a model of no library: its code and its layouts.

    Raises:
        UserError: for code that cannot be identified.
    """
    code = code_of(backbone.anatomy.tower)
    if code is None:
        raise UserError(
            f"features of {backbone.spec} cannot be kept: its code stands in no file and reads values that cannot be "
            "identified; define its classes in a file and import them."
        )
    if not code and backbone.anatomy.library in LIBRARIES:
        return {}
    return {"code": code, "layout": repr(backbone.layouts(size))}


def key_of(words: Mapping[str, Any]) -> str:
    """Hash the words into 16 hexadecimal digits."""
    return _short(json.dumps(words, sort_keys=True))


def _structure(tower: nn.Module) -> str:
    """The layers of a model and their plain settings, such as the number of heads, which the weights do not show."""
    settings = [
        f"{name}.{key}={value!r}"
        for name, module in tower.named_modules()
        for key, value in sorted(vars(module).items())
        if key != "training" and not key.startswith("_") and isinstance(value, bool | int | float | str | torch.Size)
    ]
    return "\n".join([_ADDRESS.sub("", repr(tower)), *settings])


def hash_of_values(module: nn.Module) -> str:
    """Hash names, types, shapes and bytes of all parameters and buffers in memory, including non-persistent ones."""
    digest = hashlib.sha256()
    for name, value in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda item: item[0]):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def hash_of_listing(data: TrainingSet) -> str:
    """Hash names, sizes and modification times of the files of a set, without reading them.

    An image inside an archive has the size and time of the archive. For images that are not files, such as CIFAR's, the
    pixels of 16 images spread over the set are hashed instead.
    """
    digest = hashlib.sha256()
    archives: dict[str, str | None] = {}
    unknown: list[int] = []
    for index in range(len(data)):
        name = data.name(index)
        state = _state(name)
        if state is None:
            folder = os.path.dirname(name)
            if folder not in archives:
                archives[folder] = _archive_state(folder)
            state = archives[folder]
        if state is None:
            unknown.append(index)
        digest.update(f"{os.path.abspath(name) if state else name}\0{state}\n".encode("utf-8", "backslashreplace"))
    for place in np.unique(np.linspace(0, len(unknown) - 1, _LOOKED_AT).round().astype(int)) if unknown else ():
        try:
            pixels = np.asarray(data.read(unknown[place]).image)
        except Unreadable as error:
            digest.update(error.reason.encode())
        else:
            digest.update(f"{pixels.shape}".encode() + pixels.tobytes())
    return digest.hexdigest()[:16]


def hash_of_data(data: str) -> str:
    """Hash names, sizes and modification times of all files under DATA of `eval`, however a task opens it.

    Of a pattern such as shards/{000..009}.tar, the files beside it are hashed.

    Returns:
        the hash; of some images where they are drawn, and empty where DATA names no path.
    """
    drawn = named(data)
    if drawn is not None:
        return hash_of_listing(training_set(drawn, "val"))
    word = re.sub(r"^\w+:", "", data)
    path = next((Path(each) for each in (data, word, word.rpartition("@")[0]) if each and os.path.exists(each)), None)
    if path is None:
        beside = os.path.dirname(word)
        if not os.path.isdir(beside):
            return ""
        files = [entry.path for entry in os.scandir(beside) if entry.is_file()]
    elif path.is_dir():
        files = [os.path.join(where, name) for where, _, names in os.walk(path, followlinks=True) for name in names]
    else:
        files = [str(path)]
    lines = (f"{os.path.abspath(file)}\0{_state(file)}\n" for file in sorted(files))
    return hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _state(path: str) -> str | None:
    """Return size and modification time of a file; None if the path is not a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def _archive_state(path: str) -> str | None:
    """Return the state of the archive in a path such as photos.zip/2020/a.jpg."""
    while path and path != os.path.dirname(path):
        if os.path.isfile(path):
            return _state(path)
        path = os.path.dirname(path)
    return None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
