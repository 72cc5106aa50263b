"""Read weights from a file without running anything in it, and put them into a ViT of any library.

A checkpoint is found inside its wrappers, its layout recognised by its keys (`layouts.py`), its position table fitted
(`positions.py`); what does not fit is said by name. Nothing is ever skipped silently.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vitreg.backbones.layouts import TITLES, from_canonical, recognise, roots, routes, to_canonical
from vitreg.backbones.positions import fit_positions, square
from vitreg.errors import UserError, nearest

# Wrappers around a state dict, best first: of several copies of a model the averaged one is what evaluation uses.
_WRAPPERS = (
    *("teacher", "state_dict_ema", "model_ema", "target_encoder"),
    *("model", "state_dict", "module", "backbone", "encoder", "student"),
)

# Parts that features do not pass through: a file may lack them, and what a file has of them may be left there.
_BESIDE = re.compile(
    r"(head|heads|head_dist|fc_norm|pooler|attn_pool|pre_logits|(cls_|distillation_)?classifier|dino_head|ibot_head)\."
    r"|decoder|predictor\.|mask_token$|logit_scale$|logit_bias$|(.*\.)?(position_ids|relative_position_index)$|rope_embed\."
)
_SHARD = re.compile(r"(^|[._])flat_param(_\d+)?$")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What happened while loading.

    Args:
        layout: name of the file's layout, None where the names were the model's own.
        resampled: (rows, cols) of the position tables of file and model where they differ.
        missing: the model's tensors that keep their initial values.
        unexpected: the file's tensors that were not used.
        notes: sentences for the user.
    """

    layout: str | None
    resampled: tuple[tuple[int, int], tuple[int, int]] | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the flat state dict in a .safetensors, .pth, .pt or .bin file; pickled code is never run.

    Wrappers such as `{"model": …}` or `{"teacher": …}` are opened; prefixes of names stay as they are.

    Raises:
        UserError: if the file is missing, damaged, no checkpoint, or would run code.
    """
    return _read(Path(path))[0]


def sha256_of_weights(module: nn.Module) -> str:
    """Return 16 hexadecimal digits that name a module's weights: of names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def beside_features(name: str) -> bool:
    """Tell whether features do not pass through a tensor of this canonical name: heads, decoders, mask tokens."""
    return _BESIDE.match(name) is not None


def load_weights(
    module: nn.Module,
    path: str | Path,
    *,
    grid: tuple[int, int] | None = None,
    strict: bool = False,
    allow_partial: bool = False,
) -> LoadReport:
    """Load a file in any known layout into a ViT of any known library. The module changes only where nothing failed.

    Args:
        module: the ViT; values keep its dtype, so half-precision files become float32 in a float32 module.
        path: .safetensors, .pth, .pt or .bin.
        grid: (rows, cols) of the module's own position table; None means square.
        strict: refuse to resample positions and to go without the file's classification head.
        allow_partial: accept missing and unexpected tensors; they are then listed in the report.
    Raises:
        UserError: naming what is wrong with the file, or what does not fit the module.
    """
    path = Path(path)
    state, notes = _read(path)
    file, file_root, outside = _rooted(state, notes, path)
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    own_root = next(iter(roots(own)), "")
    inside = {key[len(own_root) :]: value for key, value in own.items() if key.startswith(own_root)}
    layout = recognise(state)
    if layout is None and not set(file) & set(inside):
        names = ", ".join(sorted(state)[:3])
        raise UserError(f"{path.name} holds no Vision Transformer in a layout vitreg knows (its tensors: {names}, …).")
    try:
        tensors, file_names = to_canonical(file)
    except KeyError as error:
        raise UserError(f"{path.name} is incomplete: {error.args[0]}.") from None
    wanted, _ = to_canonical(inside)
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}

    if "norm.weight" in wanted and "norm.weight" not in tensors and "fc_norm.weight" in tensors:
        for leaf in ("weight", "bias"):
            tensors[f"norm.{leaf}"] = tensors.pop(f"fc_norm.{leaf}")
            file_names[f"norm.{leaf}"] = file_names.pop(f"fc_norm.{leaf}")
        notes.append(f"{path.name} was trained with its final norm after pooling (fc_norm); it now norms every token.")
    tensors, resampled = _fit(tensors, wanted, grid, path, strict, notes)

    places = routes(inside)
    fresh: dict[str, Tensor] = {}
    clashes: list[str] = []
    for key, value in inside.items():
        if places[key].name not in tensors:
            continue
        given = from_canonical(tensors[places[key].name], places[key], value.shape)
        if given.shape == value.shape:
            fresh[key] = given
        elif strict or not beside_features(places[key].name):
            clashes.append(f"{own_root}{key} is {list(given.shape)} in the file and {list(value.shape)} in the model")
    if clashes:
        raise UserError(f"{path.name} does not fit the model: {_some(clashes, '; ')}.")

    missing = [own_root + key for key in inside if key not in fresh]
    unexpected = [file_root + key for name in tensors if name not in wanted for key in file_names[name]]
    needed = [
        own_root + key for key in inside if key not in fresh and (strict or not beside_features(places[key].name))
    ]
    alien = [
        file_root + key
        for name in tensors
        if name not in wanted and not beside_features(name)
        for key in file_names[name]
    ]
    _judge(
        path,
        f"{TITLES[layout]} names" if layout else "unknown names",
        needed,
        alien,
        tensors,
        wanted,
        allow_partial,
        notes,
    )
    idle = sorted({key.split(".")[0] for key in missing} - {key.split(".")[0] for key in needed})
    if idle:
        notes.append(
            f"{path.name} has no values for {', '.join(idle)} of the model; the features do not pass through it."
        )
    fresh = {own_root + key: value for key, value in fresh.items()}
    # Heads beside the ViT: taken over where file and model are of one kind.
    for key, value in own.items():
        if not key.startswith(own_root) and key in outside and outside[key].shape == value.shape:
            fresh[key] = outside.pop(key)
    unexpected += list(outside)
    left = Counter(
        key[len(file_root) :].split(".")[0] if key.startswith(file_root) else key.split(".")[0] for key in unexpected
    )
    if left and not alien:
        parts = ", ".join(f"{name} ({count})" for name, count in sorted(left.items()))
        notes.append(f"Tensors of {path.name} that the model has no use for: {parts}.")
    module.load_state_dict({**own, **fresh}, strict=False)
    return LoadReport(layout, resampled, tuple(missing), tuple(unexpected), tuple(notes))


def _rooted(state: dict[str, Tensor], notes: list[str], path: Path) -> tuple[dict[str, Tensor], str, dict[str, Tensor]]:
    """Split a state dict into the ViT (prefix cut off), its prefix, and the rest."""
    found = roots(state)
    root = found[0] if found else ""
    if len(found) > 1:
        notes.append(f"{path.name} holds {len(found)} Vision Transformers; took {root.rstrip('.') or found[0]!r}.")
    inside = {key[len(root) :]: value for key, value in state.items() if key.startswith(root)}
    return inside, root, {key: value for key, value in state.items() if not key.startswith(root)}


def _fit(
    tensors: dict[str, Tensor],
    wanted: Mapping[str, Tensor],
    grid: tuple[int, int] | None,
    path: Path,
    strict: bool,
    notes: list[str],
) -> tuple[dict[str, Tensor], tuple[tuple[int, int], tuple[int, int]] | None]:
    """Bring the position table to the model's size; say so, or refuse where `strict`."""
    old, new = tensors.get("pos_embed"), wanted.get("pos_embed")
    if old is None or new is None or old.ndim != 3 or new.ndim != 3 or old.shape[-1] != new.shape[-1]:
        return tensors, None  # the comparison of shapes that follows says what is wrong
    length = new.shape[1]
    prefixes = [wanted[name].shape[-2] for name in ("cls_token", "dist_token", "reg_token") if name in wanted]
    sides = [square(length - sum(prefixes[:count])) for count in range(len(prefixes) + 1)]
    grid = grid or next((side for side in sides if side), None)
    fit = fit_positions(tensors, length, grid) if grid else None
    if fit is None:
        if old.shape == new.shape:
            return tensors, None
        raise UserError(
            f"{path.name} has {old.shape[1]} positions, which is no square grid, and the model wants {length}; "
            "build the model at the image size of the file."
        )
    fitted, what = fit
    if not what.resampled:
        return fitted, None
    if strict:
        raise UserError(f"{path.name} has {what}; leave out --strict to resample them.")
    notes.append(f"{path.name} has {what}. Resampled; pass --strict to refuse.")
    return fitted, (what.file_grid, what.model_grid)


def _judge(
    path: Path,
    title: str,
    missing: list[str],
    unexpected: list[str],
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    allow_partial: bool,
    notes: list[str],
) -> None:
    """Stop where the file lacks what features need, or holds what the model has no place for; registers by name."""
    complaints: list[str] = []
    if "reg_token" in wanted and "reg_token" not in tensors:
        count = wanted["reg_token"].shape[-2]
        complaints.append(f"the model has {count} registers and {path.name} has none, so they would stay untrained")
    if "reg_token" in tensors and "reg_token" not in wanted:
        count = tensors["reg_token"].shape[-2]
        complaints.append(f"{path.name} has {count} registers and the model has none")
    if missing:
        complaints.append(f"{path.name} lacks {len(missing)} tensors of the model ({_some(missing)})")
    if unexpected:
        complaints.append(f"{path.name} has {len(unexpected)} tensors that the model lacks ({_some(unexpected)})")
    if not complaints:
        return
    if allow_partial:
        notes += [f"{complaint[0].upper()}{complaint[1:]}; loaded all the same." for complaint in complaints]
        return
    remedy = "choose the model that the file was trained as, or allow a partial load"
    raise UserError(f"wrong weights for the model: {'; '.join(complaints)} ({title}); {remedy}.")


def _some(names: Sequence[str], separator: str = ", ", count: int = 8) -> str:
    more = f"{separator}and {len(names) - count} more" if len(names) > count else ""
    return separator.join(names[:count]) + more


def _read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict in a file, and what the user must know about the choice of it."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin"))
        raise UserError(
            f"{path} is a folder; name a weights file" + (f" in it, such as {_some(inside)}." if inside else ".")
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
