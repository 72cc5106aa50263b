"""Read one file of tensors without running code in it, and without allocating more memory than its size.

Declared sizes are compared with the file's size: number and length of records before opening, each tensor before any
computation. A view may claim a million times what is stored.
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
from torch import Tensor, nn

from vitreg.errors import UserError

# The largest ViT has some thousand tensors; a training checkpoint of several towers with their moments some ten thousand.
_TENSORS = 100_000
_HEADER = 16 * 2**20  # bytes of the table of contents: about 150 per tensor
_SHARED = 32  # times the stored bytes that all tensors together may claim: for a ViT whose blocks are one and the same


def read_tensor_file(path: Path) -> Any:
    """Read a .safetensors, .pth, .pt or .bin file: a tree of dicts, lists and tensors, which are mapped, not copied.

    Raises:
        UserError: if it is missing, empty, damaged, no checkpoint, too large in its declarations, or would run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not start:
        raise UserError(f"{path.name} is empty (0 bytes).")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path.name} is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from.")
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return _unpickle(path)
    return _safetensors(path, int.from_bytes(start[:8], "little"))


def refuse_unusable(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors without ordinary values of their own before anything is computed from them.

    Raises:
        UserError: for sparse, quantised, meta and expanded tensors, and where many names share few values.
    """
    if len(state) > _TENSORS:
        raise UserError(f"{source} holds {len(state)} tensors, more than any Vision Transformer has.")
    stored: dict[int, int] = {}
    claimed = 0
    for name, value in state.items():
        what = _unusual(value)
        if what:
            raise UserError(f"{name} in {source} {what}; save plain tensors on the CPU.")
        size, storage = value.numel() * value.itemsize, value.untyped_storage()
        if size > storage.nbytes():
            raise UserError(
                f"{name} in {source} claims {value.numel()} values and stores {storage.nbytes() // value.itemsize} "
                "(an expanded tensor); save it after .contiguous()."
            )
        stored[storage.data_ptr()] = max(stored.get(storage.data_ptr(), 0), storage.nbytes())
        claimed += size
    if claimed > _SHARED * sum(stored.values()):
        raise UserError(
            f"{source} gives the same values many names: {len(state)} tensors claim {claimed} bytes and store "
            f"{sum(stored.values())}; save each tensor once."
        )


def _unusual(value: Tensor) -> str:
    if value.is_quantized:
        return f"is quantised ({str(value.dtype).removeprefix('torch.')})"
    if value.layout is not torch.strided:
        return f"is sparse ({str(value.layout).removeprefix('torch.')})"
    if value.is_nested or type(value) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"is a {type(value).__name__}, which stands for other tensors"
    return "has no values (it was saved from the meta device)" if value.is_meta else ""


def _safetensors(path: Path, header: int) -> dict[str, Tensor]:
    size = path.stat().st_size
    if 8 + header <= size and header > _HEADER:
        raise UserError(f"{path.name} has a header of {header} bytes: more tensors than any Vision Transformer has.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, OverflowError):
        raise UserError(
            f"{path.name} is truncated or no checkpoint (neither safetensors nor a PyTorch file)."
        ) from None


def _unpickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped:
            _refuse_packed(path)
        # Released files of DINO, DeiT and MAE carry their command line; a Namespace holds values and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript: both end in a sentence below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle makes the reader raise nearly anything
        text = str(error)
        if re.search(
            r"[Uu]nsupported (global|class|operand|function)|[Tt]rying to (call|instantiate|load)|GLOBAL", text
        ):
            raise UserError(
                f"{path.name} holds pickled code, which vitreg never runs; "
                "re-save it as safetensors or a plain state dict."
            ) from None
        raise UserError(f"{path.name} is truncated or no PyTorch checkpoint.") from None


def _refuse_packed(path: Path) -> None:
    """Refuse an archive that PyTorch did not write: compressed records, which mapping would read as weights; or bombs."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if len(records) > _TENSORS:
        raise UserError(f"{path.name} has {len(records)} records, more tensors than any Vision Transformer has.")
    if any("/code/" in record.filename or record.filename.endswith("/constants.pkl") for record in records):
        raise UserError(
            f"{path.name} is a TorchScript program, which vitreg never runs; re-save its state dict as safetensors."
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(f"{path.name} was packed again with compression; unpack it, or re-save it with torch.save.")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise UserError(f"{path.name} declares more bytes than it has.")
    if any(record.file_size > _HEADER for record in records if record.filename.endswith("/data.pkl")):
        raise UserError(f"{path.name} has a table of contents above {_HEADER // 2**20} MB: no weights have one.")
