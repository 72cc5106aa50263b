"""Read the state dict in a weights file without running anything in it.

Pickled code is refused, wrappers such as `{"model": …}` are opened, and the best of several copies of a model is taken.
Which ViT the names belong to is the business of `layouts.py`.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitreg.backbones.layouts import roots
from vitreg.errors import UserError, nearest

# Wrappers around a state dict, best first: of several copies of a model the averaged one is what evaluation uses.
_WRAPPERS = (
    *("teacher", "state_dict_ema", "model_ema", "target_encoder"),
    *("model", "state_dict", "module", "backbone", "encoder", "student"),
)
_SHARD = re.compile(r"(^|[._])flat_param(_\d+)?$")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the flat state dict in a .safetensors, .pth, .pt or .bin file; pickled code is never run.

    Wrappers such as `{"model": …}` or `{"teacher": …}` are opened; prefixes of names stay as they are.

    Raises:
        UserError: if the file is missing, damaged, no checkpoint, or would run code.
    """
    return open_checkpoint(Path(path))[0]


def open_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Do what `read_checkpoint` does, and return also what the user must know about the choice among what is in the file."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin"))
        raise UserError(
            f"{path} is a folder; name a weights file"
            + (f" in it, such as {', '.join(inside[:8])}." if inside else ".")
        )
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else []
        raise UserError(f"no weights file {path}." + (f" Did you mean {' or '.join(map(repr, near))}?" if near else ""))
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not start:
        raise UserError(f"{path.name} is empty (0 bytes).")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path.name} is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from.")
    tree = _unpickle(path) if start[:2] == b"PK" or start[:1] == b"\x80" else _safetensors(path)
    notes: list[str] = []
    state = _unwrap(tree, path, notes)
    if not state:
        raise UserError(f"{path.name} holds no state dict (no named tensors).")
    if any(_SHARD.search(key) for key in state):
        raise UserError(
            f"{path.name} is one rank's shard of FSDP training, which cannot be joined; "
            "use teacher_checkpoint.pth of its eval folder."
        )
    return state, notes


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError):
        raise UserError(
            f"{path.name} is truncated or no checkpoint (neither safetensors nor a PyTorch file)."
        ) from None


def _unpickle(path: Path) -> Any:
    try:
        # Released files of DINO, DeiT and MAE carry their command line; a Namespace holds values and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript: both end in a sentence below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle makes the reader raise nearly anything
        text = str(error)
        if "TorchScript" in text:
            raise UserError(
                f"{path.name} is a TorchScript program, which vitreg never runs; re-save its state dict as safetensors."
            ) from None
        if re.search(
            r"[Uu]nsupported (global|class|operand|function)|[Tt]rying to (call|instantiate|load)|GLOBAL", text
        ):
            raise UserError(
                f"{path.name} holds pickled code, which vitreg never runs; "
                "re-save it as safetensors or a plain state dict."
            ) from None
        raise UserError(f"{path.name} is truncated or no PyTorch checkpoint.") from None


def _unwrap(tree: Any, path: Path, notes: list[str], depth: int = 0) -> dict[str, Tensor]:
    """Return the flat state dict inside nested dicts, preferring one that holds a ViT."""
    if isinstance(tree, Tensor) or not isinstance(tree, Mapping):
        return {}
    flat = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if roots(flat) or depth == 4:
        return flat
    inner: dict[str, dict[str, Tensor]] = {}
    for key in sorted((k for k, v in tree.items() if isinstance(k, str) and isinstance(v, Mapping)), key=_wrapper_rank):
        if found := _unwrap(tree[key], path, [], depth + 1):
            inner[key] = found
    vits = [key for key, value in inner.items() if roots(value)]
    if vits:
        if len(vits) > 1:
            notes.append(f"{path.name} holds {' and '.join(vits)}; took {vits[0]}.")
        return inner[vits[0]]
    return max([flat, *inner.values()], key=len)


def _wrapper_rank(key: str) -> int:
    return _WRAPPERS.index(key) if key in _WRAPPERS else len(_WRAPPERS)
