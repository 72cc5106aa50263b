"""Find the state dict in a weights file, or in the several files of one index.

Wrappers such as `{"model": …}` are opened, and the best of several copies of a model is taken. `tensor_files.py` reads
a file without running code in it; `names.py` finds out which ViT the names belong to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitreg.backbones.weights.names import roots
from vitreg.backbones.weights.shards import indexes, is_index, read_index
from vitreg.backbones.weights.tensor_files import read_tensor_file, refuse_unusable
from vitreg.errors import UserError
from vitreg.specs import WEIGHTS
from vitreg.writing.files import missing

# Wrappers around a state dict, best first: of several copies of a model the averaged one is what evaluation uses.
_WRAPPERS = (
    *("teacher", "state_dict_ema", "model_ema", "target_encoder"),
    *("model", "state_dict", "module", "backbone", "encoder", "student"),
)
_SHARD = re.compile(r"(^|[._])flat_param(_\d+)?$")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the flat state dict in a .safetensors, .pth, .pt or .bin file, or of an index of such files or its folder.

    Wrappers such as `{"model": …}` or `{"teacher": …}` are opened; prefixes of names stay as they are.

    Raises:
        UserError: if the file is missing, damaged, no checkpoint, or would run code.
    """
    return open_checkpoint(Path(path))[0]


def open_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read as `read_checkpoint` does, and also return notes on the choice among several state dicts."""
    _refuse_distributed(path)
    if path.is_dir():
        path = _index_in(path)
    if not path.is_file():
        raise missing(path, "weights file")
    _refuse_single_part(path)
    notes: list[str] = []
    state = _joined(path) if is_index(path) else _unwrap(read_tensor_file(path), path, notes, set())
    if not state:
        raise UserError(f"{path.name} holds no state dict (no named tensors).")
    if any(_SHARD.search(key) for key in state):
        raise UserError(
            f"{path.name} is one rank's shard of FSDP training, which cannot be joined; "
            "use teacher_checkpoint.pth of its eval folder."
        )
    refuse_unusable(state, path.name)
    return state, notes


def _refuse_distributed(path: Path) -> None:
    """Name the converter for a checkpoint of torch.distributed.checkpoint: a folder, or one of its files."""
    folder = path if path.is_dir() else path.parent
    part = path.suffix == ".distcp" or path.name == ".metadata"
    if part or (path.is_dir() and ((path / ".metadata").is_file() or any(path.glob("*.distcp")))):
        raise UserError(
            f"{folder} is a distributed checkpoint of PyTorch; make one file of it first: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth."
        )


def _index_in(folder: Path) -> Path:
    """Return the index of sharded weights in a folder; safetensors come before PyTorch's."""
    found = indexes(folder)
    safe = [index for index in found if "safetensors" in index.name]
    if len(safe or found) == 1:
        return (safe or found)[0]
    files = sorted(p.name for p in folder.iterdir() if p.suffix in WEIGHTS)
    inside = [index.name for index in found] or files
    raise UserError(
        f"{folder} is a folder; name a weights file" + (f" in it, such as {', '.join(inside[:8])}." if inside else ".")
    )


def _refuse_single_part(path: Path) -> None:
    """Name the index where a user names one part of sharded weights."""
    if not re.search(r"-\d{5}-of-\d{5}\.", path.name):
        return
    listing = [index.name for index in indexes(path.parent) if path in read_index(index)]
    raise UserError(
        f"{path.name} is one part of weights that were cut into several; "
        + (f"name their index, {listing[0]}." if listing else "fetch the others and their index (.index.json).")
    )


def _joined(index: Path) -> dict[str, Tensor]:
    """Read the tensors that an index names, each from its file."""
    state: dict[str, Tensor] = {}
    for path, names in read_index(index).items():
        tree = read_tensor_file(path)
        found = {key: value for key, value in tree.items() if isinstance(value, Tensor)} if _is_table(tree) else {}
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(f"{path.name} lacks {missing[0]}, which {index.name} says is there; fetch both again.")
        state |= {name: found[name] for name in names}
    return state


def _is_table(tree: Any) -> bool:
    return isinstance(tree, Mapping) and not isinstance(tree, Tensor)


def _unwrap(tree: Any, path: Path, notes: list[str], seen: set[int], depth: int = 0) -> dict[str, Tensor]:
    """Return the flat state dict inside nested dicts, preferring one that holds a ViT."""
    if not _is_table(tree) or id(tree) in seen:  # a pickle can hold one dict a million times
        return {}
    seen.add(id(tree))
    flat = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if roots(flat) or depth == 4:
        return flat
    inner: dict[str, dict[str, Tensor]] = {}
    for key in sorted((k for k, v in tree.items() if isinstance(k, str) and isinstance(v, Mapping)), key=_wrapper_rank):
        if found := _unwrap(tree[key], path, [], seen, depth + 1):
            inner[key] = found
    vits = [key for key, value in inner.items() if roots(value)]
    if vits:
        if len(vits) > 1:
            notes.append(f"{path.name} holds {' and '.join(vits)}; took {vits[0]}.")
        return inner[vits[0]]
    return max([flat, *inner.values()], key=len)


def _wrapper_rank(key: str) -> int:
    return _WRAPPERS.index(key) if key in _WRAPPERS else len(_WRAPPERS)
