"""Load weights, from a file or from memory, into a ViT of any library.

A file is read without running code in it (`checkpoints.py`), its layout recognised by its keys (`names.py`), its
position table fitted (`positions.py`). Tensors that do not fit are named; nothing is skipped silently.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vitreg.backbones.weights.checkpoints import open_checkpoint, read_checkpoint
from vitreg.backbones.weights.names import TITLES, Route, dropped, from_canonical, routes, to_canonical
from vitreg.backbones.weights.positions import PREFIX, fit_positions, square
from vitreg.backbones.weights.vit_kind import blocks_in, kind_of
from vitreg.backbones.weights.vit_state import (
    Side,
    aligned,
    beside_features,
    no_vit,
    read_vit,
    renamed,
    side_of,
    tensors_of,
    vit_of,
)
from vitreg.backbones.weights.wrappers import refuse_additions
from vitreg.errors import UserError

__all__ = [
    "LoadReport", "beside_features", "load_state", "load_weights", "read_checkpoint", "read_vit", "sha256_of_weights", "vit_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What happened while loading.

    Args:
        layout: name of the file's layout, None where the names were the model's own.
        resampled: (rows, cols) of the position tables of file and model where they differ.
        missing: the model's tensors that keep their initial values.
        unexpected: the file's tensors that were not used.
        notes: sentences for the user.
        untrained: the members of `missing` that features pass through, by canonical name; only after a partial load.
        cut: the file's tensors that features need and the model lacks, by canonical name; only after a partial load.
    """

    layout: str | None
    resampled: tuple[tuple[int, int], tuple[int, int]] | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def sha256_of_weights(module: nn.Module) -> str:
    """Return 16 hexadecimal digits that name a module's weights: of names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def load_weights(
    module: nn.Module,
    path: str | Path,
    *,
    grid: tuple[int, int] | None = None,
    trained_grid: tuple[int, int] | None = None,
    strict: bool = False,
    allow_partial: bool = False,
) -> LoadReport:
    """Load a file in any known layout into a ViT of any known library. After an error the module is unchanged.

    Args:
        module: the ViT; values keep its dtype, so half-precision files become float32 in a float32 module.
        path: .safetensors, .pth, .pt or .bin, the index of several such files, or a folder with one.
        grid: (rows, cols) of the module's own position table; None means square.
        trained_grid: grid of the file's position table, if it neither fits the module nor is square.
        strict: refuse to resample positions or to drop the file's classification head.
        allow_partial: accept missing and unexpected tensors; they are then listed in the report.
    Raises:
        UserError: naming what is wrong with the file, or what does not fit the module.
    """
    path = Path(path)
    state, notes = open_checkpoint(path)
    return load_state(
        module, state, path.name, grid=grid, trained_grid=trained_grid, strict=strict, allow_partial=allow_partial,
        notes=notes,
    )  # fmt: skip


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    grid: tuple[int, int] | None = None,
    trained_grid: tuple[int, int] | None = None,
    strict: bool = False,
    allow_partial: bool = False,
    notes: Sequence[str] = (),
    remedy: str = "",
) -> LoadReport:
    """Load a flat state dict from memory, as `load_weights` does.

    Args:
        source: name of the state dict in messages.
        notes: sentences that come first in the report.
        remedy: end of the message for a mismatch of model and state dict; a default if empty.
    """
    notes, own = list(notes), tensors_of(module)
    file, model = aligned(state, own, source, notes)
    if file.layout is None and not set(file.vit) & set(model.vit):
        refuse_additions(state, own, source)
        raise no_vit(state, source)
    tensors, names = renamed(file, source, model.vit)
    wanted, _ = to_canonical(model.vit)
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    _norm_every_token(tensors, names, wanted, source, notes)
    tensors, resampled = _fit(tensors, wanted, (grid, trained_grid), source, strict, notes)

    places = routes(model.vit)
    fresh = _placed(tensors, places, model, source, strict)
    missing = [name for name in model.vit if name not in fresh]
    untrained = [name for name in missing if not beside_features(places[name].name)]
    lost = [name for name in tensors if name not in wanted and not _adds_nothing(name, tensors[name])]
    lost += dropped({name: tensors[name] for name in wanted if name in tensors}, places.values())
    complaints = _Complaints(
        source,
        f"{TITLES[file.layout]} names" if file.layout else "unknown names",
        missing=model.native(missing if strict else untrained),
        unexpected=file.native(key for name in lost for key in names[name]),
    )
    complaints.judge(tensors, wanted, notes, remedy, allow_partial=allow_partial)
    _note_idle(missing, untrained, source, notes)
    heads = _heads(file.beside, model.beside)
    unused = [key for name in tensors if name not in wanted for key in names[name]]
    _note_unused([*unused, *(name for name in file.beside if name not in heads)], bool(lost), source, notes)
    loaded = {model.keys[model.prefix + name]: value for name, value in fresh.items()}
    module.load_state_dict(
        {**own, **loaded, **{model.keys[name]: value for name, value in heads.items()}}, strict=False
    )
    return LoadReport(
        file.layout,
        resampled,
        tuple(model.native(missing)),
        (*file.native(unused), *(file.keys[name] for name in file.beside if name not in heads)),
        tuple(notes),
        tuple(places[name].name for name in untrained),
        tuple(lost),
    )


def _heads(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the heads beside the ViT that file and model both have, in the same shape."""
    return {name: given[name] for name, own in wanted.items() if name in given and given[name].shape == own.shape}


def _note_idle(missing: Sequence[str], untrained: Sequence[str], source: str, notes: list[str]) -> None:
    """Note which parts of the model got no values but do not affect features."""
    idle = sorted({name.split(".")[0] for name in missing} - {name.split(".")[0] for name in untrained})
    if idle:
        notes.append(f"{source} has no values for {', '.join(idle)} of the model; the features do not pass through it.")


def _norm_every_token(
    tensors: dict[str, Tensor],
    names: dict[str, list[str]],
    wanted: Mapping[str, Tensor],
    source: str,
    notes: list[str],
) -> None:
    """Use the file's norm after pooling as the model's final norm, if the file lacks that one."""
    if "norm.weight" not in wanted or "norm.weight" in tensors or "fc_norm.weight" not in tensors:
        return
    for leaf in ("weight", "bias"):
        if f"fc_norm.{leaf}" in tensors:
            tensors[f"norm.{leaf}"] = tensors.pop(f"fc_norm.{leaf}")
            names[f"norm.{leaf}"] = names.pop(f"fc_norm.{leaf}")
    notes.append(f"{source} was trained with its final norm after pooling (fc_norm); it now norms every token.")


def _placed(
    tensors: Mapping[str, Tensor], places: Mapping[str, Route], model: Side, source: str, strict: bool
) -> dict[str, Tensor]:
    """Cut the model's own tensors out of the canonical ones; refuse different shapes, except of heads."""
    fresh: dict[str, Tensor] = {}
    clashes: list[str] = []
    for name, value in model.vit.items():
        place = places[name]
        if place.name not in tensors:
            continue
        try:
            given = from_canonical(tensors[place.name], place, value.shape)
        except (RuntimeError, IndexError):  # too few axes or values to be cut
            given = tensors[place.name]
        if given.shape == value.shape:
            fresh[name] = given
        elif strict or not beside_features(place.name):
            key = model.native([name])[0]
            clashes.append(f"{key} is {list(given.shape)} in the file and {list(value.shape)} in the model")
    if clashes:
        raise UserError(f"{source} does not fit the model: {_kinds(source, tensors, model)}{_some(clashes, '; ')}.")
    return fresh


def _kinds(source: str, tensors: Mapping[str, Tensor], model: Side) -> str:
    """Name the ViTs of file and model if they differ."""
    of, own = kind_of(tensors), kind_of(to_canonical(model.vit)[0])
    return f"{source} is {of}, the model {own}: " if of != own else ""


def _adds_nothing(name: str, value: Tensor) -> bool:
    """Whether a tensor does not affect features: it belongs to a head, or is a bias of zeros."""
    return beside_features(name) or (name.endswith(".bias") and not bool(value.any()))


def _note_unused(names: Sequence[str], lost: bool, source: str, notes: list[str]) -> None:
    """Note which parts of a file the model does not use, unless already reported."""
    if names and not lost:
        counts = Counter(name.split(".")[0] for name in names)
        parts = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
        notes.append(f"Tensors of {source} that the model has no use for: {parts}.")


def _fit(
    tensors: dict[str, Tensor],
    wanted: Mapping[str, Tensor],
    grids: tuple[tuple[int, int] | None, tuple[int, int] | None],
    source: str,
    strict: bool,
    notes: list[str],
) -> tuple[dict[str, Tensor], tuple[tuple[int, int], tuple[int, int]] | None]:
    """Bring the position table to the model's size; say so, or refuse where `strict`.

    Args:
        grids: of the model, and of the file should it neither fit nor be square; None where unknown.
    """
    old, new = tensors.get("pos_embed"), wanted.get("pos_embed")
    if old is None or new is None or not _fittable(tensors, new.shape[-1]) or new.ndim != 3:
        return tensors, None  # the later comparison of shapes reports the error
    length = new.shape[1]
    prefixes = [wanted[name].shape[-2] for name in PREFIX if name in wanted]
    sides = [square(length - sum(prefixes[:count])) for count in range(len(prefixes) + 1)]
    grid, trained = grids
    grid = grid or next((side for side in sides if side), None)
    fit = fit_positions(tensors, length, grid, trained_grid=trained) if grid else None
    if fit is None:
        if old.shape == new.shape:
            return tensors, None
        raise UserError(
            f"{source} has {old.shape[1]} positions, which is no square grid, and the model wants {length}; "
            "build the model at the image size of the file, or name that size (--size HEIGHTxWIDTH)."
        )
    fitted, what = fit
    if not what.resampled:
        count = what.file_grid[0] * what.file_grid[1]
        others = [other for other in (trained, square(count)) if other is not None and other != what.file_grid]
        also = next((f"{rows}*{cols}" for rows, cols in others if rows * cols == count), None)
        if also:  # the file does not say which, and the wrong one would shuffle the positions
            own = f"{what.file_grid[0]}*{what.file_grid[1]}"
            notes.append(
                f"{source} has positions for {count} patches, taken as the model's own {own}; {also} are as many."
            )
        return fitted, None
    if strict:
        raise UserError(f"{source} has {what}; leave out --strict to resample them.")
    notes.append(f"{source} has {what}. Resampled; pass --strict to refuse.")
    return fitted, (what.file_grid, what.model_grid)


def holds(state: Mapping[str, Tensor], module: nn.Module, grid: tuple[int, int], trained: tuple[int, int]) -> bool:
    """Whether the position table in a state dict has the grid `trained`, different from the module's own `grid`."""
    try:
        tensors, _ = to_canonical(side_of(state, [], "").vit)
        wanted, _ = to_canonical(side_of(tensors_of(module), [], "").vit)
    except (KeyError, ValueError, RuntimeError, IndexError):
        return False  # loading says what is wrong
    table, own = tensors.get("pos_embed"), wanted.get("pos_embed")
    if table is None or own is None or own.ndim != 3 or not _fittable(tensors, own.shape[-1]):
        return False
    fit = fit_positions(tensors, own.shape[1], grid, trained_grid=trained)
    return fit is not None and fit[1].file_grid == trained != grid


def _fittable(tensors: Mapping[str, Tensor], width: int) -> bool:
    """Tell whether positions and the tokens that may share its rows are [1, N, width]."""
    parts = [tensors[name] for name in ("pos_embed", *PREFIX) if name in tensors]
    return all(part.ndim == 3 and len(part) == 1 and part.shape[-1] == width for part in parts)


@dataclass(frozen=True, slots=True)
class _Complaints:
    """What a file and a model do not have in common.

    Args:
        title: how the file's layout is called.
        missing, unexpected: keys that features need, of the model and of the file.
    """

    source: str
    title: str
    missing: list[str]
    unexpected: list[str]

    def judge(
        self,
        tensors: Mapping[str, Tensor],
        wanted: Mapping[str, Tensor],
        notes: list[str],
        remedy: str,
        *,
        allow_partial: bool,
    ) -> None:
        """Raise if there are any, naming registers and blocks; with `allow_partial` turn them into notes."""
        source, complaints = self.source, []
        if "reg_token" in wanted and "reg_token" not in tensors:
            count = wanted["reg_token"].shape[-2]
            complaints.append(f"the model has {count} registers and {source} has none: they would stay untrained")
        if "reg_token" in tensors and "reg_token" not in wanted:
            count = tensors["reg_token"].shape[-2]
            complaints.append(f"{source} has {count} registers and the model has none")
        has, wants = blocks_in(tensors), blocks_in(wanted)
        if has != wants:
            complaints.append(f"{source} has {len(has)} block{'s' * (len(has) != 1)} and the model {len(wants)}")
        if self.missing:
            complaints.append(f"{source} lacks {_tensors(self.missing)} of the model ({_some(self.missing)})")
        if self.unexpected:
            few = _some(self.unexpected)
            complaints.append(f"{source} has {_tensors(self.unexpected)} that the model lacks ({few})")
        if not complaints:
            return
        if allow_partial:
            for complaint in complaints:  # a sentence may begin with the name of a file, which stays as it is
                own = complaint.startswith(source)
                notes.append(f"{complaint if own else complaint[0].upper() + complaint[1:]}; loaded all the same.")
            return
        # A model with another number of blocks was never trained: do not offer a partial load.
        partly = ", or allow a partial load (--allow-partial)" if has == wants else ""
        remedy = remedy or f"choose the model that the file was trained as{partly}"
        of, own = kind_of(tensors), kind_of(wanted)
        if of != own:  # says of registers and blocks what is to be said
            kinds = f"{source} ({self.title}) is {of}, the model {own}"
            complaints = [
                kinds,
                *(f"it {each.removeprefix(source).strip()}" for each in complaints if "tensor" in each),
            ]
        raise UserError(f"wrong weights for the model: {'; '.join(complaints)}; {remedy}.")


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def _some(names: Sequence[str], separator: str = ", ", count: int = 2) -> str:
    more = f"{separator}and {len(names) - count} more" if len(names) > count else ""
    text = separator.join(names[:count]) + more
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in text
    )  # one line, whatever a file says
