"""Runs that trained a model of another library: the folder names the base and holds the trained tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitreg import specs
from vitreg.backbones.weights.checkpoints import read_checkpoint
from vitreg.documents import read_json
from vitreg.errors import UserError
from vitreg.models.settings import UNTRAINED
from vitreg.writing.files import run_folder


def base_of(spec: str) -> dict[str, Any] | None:
    """Return the model settings in config.json; None if the spec is not a run, or the run trained vitreg's own ViT."""
    if not specs.whole(spec).startswith("run:"):
        return None
    folder = run_folder(spec)
    specs.refuse_no_run(folder)
    config = read_json(folder / "config.json")
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or "base" not in model:
        return None
    if not isinstance(model["base"], str) or not isinstance(model.get("base_sha256"), str):
        raise UserError(f"{folder / 'config.json'} does not say which model the run began with.")
    return model


def fill_from_run(spec: str, model: Mapping[str, Any], load: Callable[..., Any]) -> tuple[nn.Module, Path, list[str]]:
    """Build the base of a run and set the tensors that were trained.

    Args:
        model: as `base_of` returns it.
        load: `vitreg.load`.
    Returns:
        the vision tower, the file of its weights, and sentences for the user.
    Raises:
        UserError: if the base cannot be loaded, is not the one that the run began with, or has other tensors.
    """
    folder = run_folder(spec)
    file = folder / "model.safetensors"
    trained = read_checkpoint(file)
    head = [name for name in trained if name.startswith(f"{specs.RUN_HEAD}head.")]
    tensors = {name: value for name, value in trained.items() if name not in head}
    place = {"device": "cpu", "precision": "fp32"}
    complete = model["base"].partition(":")[0] in specs.COMPLETE  # these bring their own weights
    backbone = load(model["base"], random=not complete, **place)
    lacking = not tensors.keys() >= backbone.module.state_dict().keys()
    if lacking and not complete and model.get("base_weights") != UNTRAINED:  # the remaining tensors come from the base
        backbone = load(model["base"], weights=model.get("base_weights"), **place)
    if lacking and backbone.weights_sha256 != model["base_sha256"]:
        raise UserError(
            f"the weights of {model['base']} are not those that the run in {folder} began with, and its "
            "folder holds only the trained tensors; name the same weights by base_weights in its config.json."
        )
    _set(backbone.module, tensors, file)
    notes = [f"Trained from {model['base']}."]
    if head:
        notes.append(f"Its head for {len(trained[head[0]])} classes is in {file.name} beside it.")
    return backbone.module, file, notes


def _set(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy tensors into a module. Raises UserError where a name or shape is not one of its own."""
    own = module.state_dict()
    strange = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
    if strange:
        raise UserError(
            f"{file} does not fit the model its run began with: {len(strange)} tensors are of another name or shape, such "
            f"as {strange[0]}."
        )
    module.load_state_dict(dict(tensors), strict=False)
