"""Put weights, from a file or from memory, into a ViT of any library.

A file is read without running anything in it (`checkpoints.py`), its layout recognised by its keys (`layouts.py`), its
position table fitted (`positions.py`); what does not fit is said by name. Nothing is ever skipped silently.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vitreg.backbones.checkpoints import open_checkpoint, read_checkpoint
from vitreg.backbones.layouts import TITLES, from_canonical, recognise, roots, routes, to_canonical
from vitreg.backbones.positions import fit_positions, square
from vitreg.errors import UserError

__all__ = [
    "LoadReport", "beside_features", "load_state", "load_weights", "read_checkpoint", "read_vit", "sha256_of_weights", "vit_of",
]  # fmt: skip

# Parts that features do not pass through: a file may lack them, and what a file has of them may be left there.
_BESIDE = re.compile(
    r"(head|heads|head_dist|fc_norm|pooler|attn_pool|pre_logits|(cls_|distillation_)?classifier|dino_head|ibot_head)\."
    r"|decoder|predictor\.|mask_token$|logit_scale$|logit_bias$|(.*\.)?(position_ids|relative_position_index)$|rope_embed\."
)


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


def read_vit(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read the ViT in a weights file.

    Returns:
        (tensors by canonical name, sentences about what was chosen among the contents of the file)
    Raises:
        UserError: if the file cannot be read, or holds no ViT of a known layout.
    """
    path = Path(path)
    state, notes = open_checkpoint(path)
    return _canonical(_rooted(state, notes, path.name)[0], path.name), notes


def vit_of(module: nn.Module, source: str) -> dict[str, Tensor]:
    """Return the tensors of a ViT of any known library, or of the ViT inside a wrapper, by canonical name.

    Raises:
        UserError: if its names are of no known layout.
    """
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    return _canonical(_rooted(state, [], source)[0], source)


def _canonical(vit: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    if recognise(vit) is None:
        raise _no_vit(vit, source)
    try:
        return to_canonical(vit)[0]
    except KeyError as error:
        raise UserError(f"{source} is incomplete: {error.args[0]}.") from None


def _no_vit(state: Mapping[str, Tensor], source: str) -> UserError:
    names = ", ".join(sorted(state)[:3])
    return UserError(f"{source} holds no Vision Transformer in a layout vitreg knows (its tensors: {names}, …).")


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
    state, notes = open_checkpoint(path)
    return load_state(module, state, path.name, grid=grid, strict=strict, allow_partial=allow_partial, notes=notes)


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    grid: tuple[int, int] | None = None,
    strict: bool = False,
    allow_partial: bool = False,
    notes: Sequence[str] = (),
    remedy: str = "choose the model that the file was trained as, or allow a partial load",
) -> LoadReport:
    """Do what `load_weights` does, with a flat state dict that is in memory.

    Args:
        source: what sentences call the state dict.
        notes: sentences that come first in the report.
        remedy: how the sentence ends that says that model and state dict are not of one kind.
    """
    notes = list(notes)
    file, file_root, outside = _rooted(state, notes, source)
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    own_root = next(iter(roots(own)), "")
    inside = {key[len(own_root) :]: value for key, value in own.items() if key.startswith(own_root)}
    layout = recognise(state)
    if layout is None and not set(file) & set(inside):
        raise _no_vit(state, source)
    try:
        tensors, file_names = to_canonical(file)
    except KeyError as error:
        raise UserError(f"{source} is incomplete: {error.args[0]}.") from None
    wanted, _ = to_canonical(inside)
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}

    if "norm.weight" in wanted and "norm.weight" not in tensors and "fc_norm.weight" in tensors:
        for leaf in ("weight", "bias"):
            tensors[f"norm.{leaf}"] = tensors.pop(f"fc_norm.{leaf}")
            file_names[f"norm.{leaf}"] = file_names.pop(f"fc_norm.{leaf}")
        notes.append(f"{source} was trained with its final norm after pooling (fc_norm); it now norms every token.")
    tensors, resampled = _fit(tensors, wanted, grid, source, strict, notes)

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
        raise UserError(f"{source} does not fit the model: {_some(clashes, '; ')}.")

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
        source,
        f"{TITLES[layout]} names" if layout else "unknown names",
        needed,
        alien,
        tensors,
        wanted,
        None if allow_partial else remedy,
        notes,
    )
    idle = sorted({key.split(".")[0] for key in missing} - {key.split(".")[0] for key in needed})
    if idle:
        notes.append(f"{source} has no values for {', '.join(idle)} of the model; the features do not pass through it.")
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
        notes.append(f"Tensors of {source} that the model has no use for: {parts}.")
    module.load_state_dict({**own, **fresh}, strict=False)
    return LoadReport(layout, resampled, tuple(missing), tuple(unexpected), tuple(notes))


def _rooted(
    state: Mapping[str, Tensor], notes: list[str], source: str
) -> tuple[dict[str, Tensor], str, dict[str, Tensor]]:
    """Split a state dict into the ViT (prefix cut off), its prefix, and the rest."""
    found = roots(state)
    root = found[0] if found else ""
    if len(found) > 1:
        notes.append(f"{source} holds {len(found)} Vision Transformers; took {root.rstrip('.') or found[0]!r}.")
    inside = {key[len(root) :]: value for key, value in state.items() if key.startswith(root)}
    return inside, root, {key: value for key, value in state.items() if not key.startswith(root)}


def _fit(
    tensors: dict[str, Tensor],
    wanted: Mapping[str, Tensor],
    grid: tuple[int, int] | None,
    source: str,
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
            f"{source} has {old.shape[1]} positions, which is no square grid, and the model wants {length}; "
            "build the model at the image size of the file."
        )
    fitted, what = fit
    if not what.resampled:
        return fitted, None
    if strict:
        raise UserError(f"{source} has {what}; leave out --strict to resample them.")
    notes.append(f"{source} has {what}. Resampled; pass --strict to refuse.")
    return fitted, (what.file_grid, what.model_grid)


def _judge(
    source: str,
    title: str,
    missing: list[str],
    unexpected: list[str],
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    remedy: str | None,
    notes: list[str],
) -> None:
    """Stop where the file lacks what features need, or holds what the model has no place for; registers by name.

    Args:
        remedy: how the sentence ends; None makes notes of the complaints instead.
    """
    complaints: list[str] = []
    if "reg_token" in wanted and "reg_token" not in tensors:
        count = wanted["reg_token"].shape[-2]
        complaints.append(f"the model has {count} registers and {source} has none, so they would stay untrained")
    if "reg_token" in tensors and "reg_token" not in wanted:
        count = tensors["reg_token"].shape[-2]
        complaints.append(f"{source} has {count} registers and the model has none")
    if missing:
        complaints.append(f"{source} lacks {len(missing)} tensors of the model ({_some(missing)})")
    if unexpected:
        complaints.append(f"{source} has {len(unexpected)} tensors that the model lacks ({_some(unexpected)})")
    if not complaints:
        return
    if remedy is None:
        notes += [f"{complaint[0].upper()}{complaint[1:]}; loaded all the same." for complaint in complaints]
        return
    raise UserError(f"wrong weights for the model: {'; '.join(complaints)} ({title}); {remedy}.")


def _some(names: Sequence[str], separator: str = ", ", count: int = 8) -> str:
    more = f"{separator}and {len(names) - count} more" if len(names) > count else ""
    return separator.join(names[:count]) + more
