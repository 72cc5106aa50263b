"""Checkpoints of a run, each a folder written completely or not at all, and the published backbone beside them.

`RUN/checkpoints/step-00001000/` holds the recipe and the optimiser's moments as safetensors files of whole tensors,
which any number of processes can load, and everything else as readable JSON with the checksums of the files.
`vitreg.training.parallel` distributes weights over processes.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.specs import RUN_SCHEMA
from vitreg.training.tensors import (
    DamagedError,
    FileSum,
    check_size,
    check_sum,
    read_tensors,
    sync_folder,
    write_bytes,
    write_tensors,
)
from vitreg.writing.files import kept_name, replacing, write_text
from vitreg.writing.ledger import note_written, read_ledger
from vitreg.writing.outputs import Outputs

SCHEMA = "vitreg.checkpoint/1"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
PUBLISHED = ("config.json", MODEL)
OURS = ("schema", "vitreg", "optimizer", "files", "crc32")  # keys of state.json reserved for this module


class SaveError(UserError):
    """A checkpoint could not be written, mostly for lack of space. Earlier ones are untouched."""


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """What an optimiser remembers between steps, such as Adam's two moments of every parameter, by name.

    Its settings, such as learning rates, are not in it: they come from the configuration and are set at every step.

    Args:
        tensors: what is a tensor, whole and on the CPU. The first moment of `head.weight` is "head.weight/exp_avg"; the
            steps counted by the third group of parameters, where the optimiser counts by group, are "groups/2/step".
        scalars: what is a plain number, by parameter and then by key: `scalars["head.weight"]["step"]`.
        groups: the groups of parameters in order, each with the "names" of its parameters and, in "counters", the plain
            numbers that the optimiser counts by group.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint, verified and loaded.

    Args:
        path: its folder.
        step: optimiser steps done.
        model: state dict of the recipe.
        optimizer: moments.
        state: all of state.json, including the `state` given to `save`.
        notes: sentences on newer, damaged checkpoints.
    """

    path: Path
    step: int
    model: dict[str, Tensor]
    optimizer: OptimizerState
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


def save(
    run: Path, recipe_state: Mapping[str, Tensor], optimizer_state: OptimizerState, state: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint beside the others; once it is complete, remove those no longer needed.

    Kept are the newest `keep`, the best by "metric", and any that were changed since they were written. Checkpoints of
    later steps are removed, as a resumed run would continue from them. Called by one process; needs space for one
    checkpoint more than are kept.

    Args:
        run: folder of the run.
        recipe_state: whole tensors by name.
        state: JSON values, with "step": optimiser steps done. "metric" (larger is better) ranks checkpoints.
        keep: newest checkpoints to leave, at least 1.
    Returns:
        the folder of the checkpoint.
    Raises:
        SaveError: if it cannot be written; no part of it remains, and all others are unchanged.
    """
    from vitreg import __version__

    if keep < 1 or set(OURS) & state.keys():
        raise ValueError(f"keep={keep} must be 1 or more, and state must have none of the keys {OURS}")
    step = int(state["step"])
    folder = run / "checkpoints"
    final = folder / f"step-{step:08d}"
    part = folder / f".{final.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean(run)
        if os.path.lexists(part):  # not written by vitreg
            part.rename(kept_name(part))
        part.mkdir()
        files = {
            MODEL: write_tensors(part / MODEL, recipe_state),
            OPTIMIZER: write_tensors(part / OPTIMIZER, optimizer_state.tensors),
        }
        document = {"schema": SCHEMA, "vitreg": __version__, **state, "step": step}
        document["optimizer"] = {"groups": optimizer_state.groups, "scalars": optimizer_state.scalars}
        document["files"] = {name: asdict(file) for name, file in files.items()}
        write_bytes(part / STATE, _sealed(document))
        sync_folder(part)
        _take_the_place(part, final)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        last = latest(run)
        left = f"{last.name} is untouched" if last else "there is no earlier one"
        why = error.strerror or error
        raise SaveError(f"cannot write the checkpoint of step {step} to {folder}: {why}; {left}.") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _prune(folder, final, keep)
    return final


def load_newest(run: Path, group: Processes | None = None) -> Loaded:
    """Read the newest undamaged checkpoint; each damaged one skipped adds a sentence to the notes.

    Args:
        run: folder of the run.
        group: the processes of the run; all call this, and must find the same checkpoint.
    Raises:
        UserError: if there is none, or if processes on several machines see different ones.
    """
    found: Loaded | None = None
    notes: list[str] = []
    for path in _newest_first(run / "checkpoints"):
        try:
            found = _load(path)
            break
        except DamagedError as damage:
            notes.append(f"checkpoint {path.name} is damaged: {damage}; it is left as it is.")
    everyone = [None if found is None else found.step] if group is None else group.gather(found and found.step)
    if len(set(everyone)) > 1:
        raise UserError(
            f"the processes find different checkpoints in {run} (steps {', '.join(map(str, everyone))}); "
            "all machines must see the same folder."
        )
    if found is None:
        raise UserError(f"no usable checkpoint in {run / 'checkpoints'}. {' '.join(notes)}".rstrip())
    if notes:
        notes.append(f"went on from {found.path.name}.")
    return Loaded(found.path, found.step, found.model, found.optimizer, found.state, tuple(notes))


def latest(run: Path) -> Path | None:
    """Return the newest checkpoint whose files all exist in full size, or None; their contents are not read."""
    return next((path for path in _newest_first(run / "checkpoints") if _described(path)), None)


def best(run: Path) -> Path | None:
    """Return the checkpoint with the largest metric, the newest among equals; None if none has a metric."""
    return _best(_newest_first(run / "checkpoints"))


def clean(run: Path) -> None:
    """Remove incomplete files of killed processes. No other process may be saving into this run."""
    for stale in (run / "checkpoints").glob(".step-*.part"):
        if (
            stale.is_dir()
            and not stale.is_symlink()
            and {path.name for path in stale.iterdir()} <= {MODEL, OPTIMIZER, STATE}
        ):
            shutil.rmtree(stale, ignore_errors=True)


def publish(run: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the backbone of a run for `vitreg scan run:DIR` and for timm: `config.json` and `model.safetensors`.

    An existing file that vitreg did not write, and that differs from the new one, is kept as `NAME.kept-1`.

    Args:
        weights: whole, as `VisionTransformer.published_state` names them.
        config: "model" holds the arguments of the `VisionTransformer` that the weights fit; other keys, such as "train"
            and "preprocess", are written as they are.
    Raises:
        UserError: if the folder cannot be written; the files are then unchanged.
    """
    if not isinstance(config.get("model"), dict):
        raise ValueError("config has no 'model', the arguments of the VisionTransformer")

    with Outputs(run, "train", PUBLISHED).adding() as place:
        write_text(place / "config.json", json.dumps({"schema": RUN_SCHEMA, **config}, indent=2) + "\n")
        write_tensors(place / MODEL, weights)
        _keep_changed(run, place)


def _keep_changed(run: Path, place: Path) -> None:
    """Rename a file that was changed, or may not be the run's own, before it is replaced."""
    ledger = read_ledger(run)
    for name in PUBLISHED:
        path = run / name
        if not os.path.lexists(path) or ledger.why_foreign(name, "train") is None:
            continue
        if path.is_symlink() or not path.is_file():
            path.rename(kept_name(path))
            continue
        if not filecmp.cmp(path, place / name, shallow=False):
            with replacing(kept_name(path)) as copy:
                shutil.copy2(path, copy)
        note_written(run, [name], "train")


def published_step(run: Path) -> int:
    """Return the step of the weights published in a run, 0 if there are none or their step is unknown."""
    try:
        step = parse_json((run / "config.json").read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return step if isinstance(step, int) and (run / MODEL).is_file() else 0


def _load(path: Path) -> Loaded:
    state = _read_state(path)
    files = _file_sums(state)
    for name, expected in files.items():
        check_sum(path / name, expected)
    kept = state["optimizer"]
    optimizer = OptimizerState(read_tensors(path / OPTIMIZER), kept["scalars"], kept["groups"])
    return Loaded(path, state["step"], read_tensors(path / MODEL), optimizer, state)


def _read_state(path: Path) -> dict[str, Any]:
    """Return the content of state.json, if undamaged."""
    try:
        state = parse_json((path / STATE).read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{STATE} is missing") from None
    except OSError as error:
        raise DamagedError(f"{STATE} cannot be read: {error.strerror}") from error
    except ValueError:
        raise DamagedError(f"{STATE} is no valid JSON") from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise DamagedError(f"{STATE} does not have the schema {SCHEMA}")
    seal = state.pop("crc32", None)
    if not _complete(state) or seal != _crc(state) or f"step-{state['step']:08d}" != path.name.removesuffix(".old"):
        raise DamagedError(f"{STATE} is not what was written")
    return state


def _complete(state: dict[str, Any]) -> bool:
    """Whether a state has all fields with the right types: the checksum only proves that it is unchanged."""
    match state:
        case {
            "step": int(),
            "optimizer": {"groups": list(), "scalars": dict()},
            "files": {"model.safetensors": dict() as model, "optimizer.safetensors": dict() as optimizer, **others},
        } if not others:
            sums = all(file.keys() == {"bytes", "crc32"} for file in (model, optimizer))
            return sums and isinstance(state.get("metric"), int | float | None)
    return False


def _described(path: Path) -> dict[str, Any] | None:
    """Return the state of a checkpoint whose files have their sizes, else None."""
    try:
        state = _read_state(path)
        for name, expected in _file_sums(state).items():
            check_size(path / name, expected)
    except DamagedError:
        return None
    return state


def _file_sums(state: dict[str, Any]) -> dict[str, FileSum]:
    return {name: FileSum(**values) for name, values in state["files"].items()}


def _sealed(document: dict[str, Any]) -> bytes:
    """Encode state.json with a checksum of all other content, so that any changed digit is detected."""
    return (json.dumps({**document, "crc32": _crc(document)}, indent=1) + "\n").encode()


def _crc(document: dict[str, Any]) -> str:
    """Return the checksum of a document's JSON."""
    return f"{zlib.crc32(json.dumps(document).encode()):08x}"


def _newest_first(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, damaged ones included."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        name = re.fullmatch(r"step-(\d+)(\.old)?", path.name)
        if name and path.is_dir():
            found.append((int(name[1]), name[2] is None, path))
    return [path for *_, path in sorted(found, reverse=True)]


def _take_the_place(part: Path, final: Path) -> None:
    """Rename a complete checkpoint to its final name. One of the same step is moved aside, so that one of both can be
    loaded at any time.

    An old one that is damaged or changed keeps its new name for good.
    """
    old = final.with_name(f"{final.name}.old")
    _remove(old)
    for path in (old, final):
        if os.path.lexists(path):
            path.rename(old if path == final and _is_as_written(path) else kept_name(path))
    part.rename(final)
    sync_folder(final.parent)


def _is_as_written(path: Path) -> bool:
    """Whether a checkpoint is unchanged and its folder holds nothing else: only those may be removed.

    For a file older than state.json, which is written last, the size is enough. In a copy the times mean nothing, and
    the checksum decides.
    """
    state = None if path.is_symlink() else _described(path)
    if state is None or {each.name for each in path.iterdir()} != {STATE, *state["files"]}:
        return False
    try:
        for name, expected in _file_sums(state).items():
            if (path / name).stat().st_mtime_ns > (path / STATE).stat().st_mtime_ns:
                check_sum(path / name, expected)
    except DamagedError:
        return False
    return True


def _prune(folder: Path, final: Path, keep: int) -> None:
    """Remove all checkpoints except the newest and the best up to `final`, which is complete, and changed ones."""
    everything = _newest_first(folder)
    sound = [path for path in everything[everything.index(final) :] if path.suffix != ".old" and _described(path)]
    kept = {final, *sound[:keep], _best(sound)}
    for path in everything:
        if path not in kept:
            _remove(path)


def _best(paths: list[Path]) -> Path | None:
    rated = []
    for path in paths:
        state = _described(path)
        if state is not None and state.get("metric") is not None and math.isfinite(state["metric"]):
            rated.append((state["metric"], state["step"], path))
    return max(rated)[-1] if rated else None


def _remove(path: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that a partly removed one is never loaded."""
    if not _is_as_written(path):
        return
    hidden = path.with_name(f".{path.name}.part")
    with contextlib.suppress(OSError):  # removal is tried again at the next save
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
