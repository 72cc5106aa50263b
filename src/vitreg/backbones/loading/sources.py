"""One function per library: name -> module and its preprocessing.

Libraries are imported on first use. Each function takes the name after a spec's prefix and whether to fetch pretrained
weights, and raises `UserError` with the nearest names for an unknown model. `backbones/weights` reads the user's
weights files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitreg import plugins
from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.loading import timm_folders
from vitreg.backbones.loading.fetch import fetch, first_line, refuse_others
from vitreg.backbones.loading.filled import built
from vitreg.backbones.loading.preprocessing import (
    Unprepared,
    not_rgb,
    preprocess_of,
    read_open_clip_config,
    read_timm_config,
    three,
)
from vitreg.backbones.weights.into_module import load_weights
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.documents import read_json
from vitreg.errors import FROM_FILE, UserError, unknown
from vitreg.models.arguments import check_arguments
from vitreg.models.parts.words import is_own
from vitreg.models.shipped import card_of, folder_of, note_of
from vitreg.specs import RUN_SCHEMA, SHIPPED, refuse_no_run, untrusted

if TYPE_CHECKING:
    from vitreg.models.vit import VisionTransformer

LARGEST_SIDE = 65536  # pixels that a run may prepare its images for


@dataclass(frozen=True, slots=True)
class Built:
    """A module as its library built it.

    Args:
        module: in evaluation mode, float32, on the CPU.
        preprocess: photograph -> image tensor, or the reason why there is none.
        notes: sentences for the user.
        weights: path of the weights for sources that bring their own, else None.
    """

    module: nn.Module
    preprocess: Preprocess | Unprepared
    notes: tuple[str, ...] = ()
    weights: str | None = None


def from_timm(name: str, pretrained: bool) -> Built:
    """Build NAME or NAME.TAG of timm, or local-dir:PATH or hf-hub:REPO, with the preprocessing of the tag or of timm's
    default."""
    import timm

    place, colon, elsewhere = name.partition(":")
    if colon:
        module: Any = timm_folders.build(place, elsewhere, pretrained)
        return Built(module, not_rgb(find_anatomy(module)) or read_timm_config(module.pretrained_cfg))
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown("model", architecture, timm.list_models(), "timm")
    tags = [found.partition(".")[2] for found in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise unknown("weights", tag, tags, f"timm for {architecture}")
    refuse_others(f"timm:{name}", lambda: timm.create_model(name))
    module = fetch(
        f"timm:{name}",
        pretrained,
        lambda: built(lambda: timm.create_model(name, pretrained=pretrained), filled=pretrained),
    )
    return Built(module, not_rgb(find_anatomy(module)) or read_timm_config(module.pretrained_cfg))


def from_open_clip(name: str, pretrained: bool) -> Built:
    """Build the image tower of ARCH or ARCH@TAG; without a tag the first that open_clip lists."""
    try:
        import open_clip
    except ImportError:
        raise UserError("openclip: models need the package open_clip_torch; install 'vitreg[clip]'.") from None
    architecture, _, tag = name.partition("@")
    if architecture not in open_clip.list_models():
        raise unknown("model", architecture, open_clip.list_models(), "open_clip")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise unknown("weights", tag, tags, f"open_clip for {architecture}")
    config: Any = open_clip.get_model_config(architecture)
    if isinstance(config["vision_cfg"].get("layers"), list):
        raise UserError(f"openclip:{name} is a ResNet, not a Vision Transformer.")
    notes: tuple[str, ...] = ()
    if pretrained and not tag:
        if not tags:
            raise UserError(
                f"open_clip has no weights for {architecture}; {FROM_FILE}, or --random to look at untrained weights."
            )
        tag = tags[0]
        notes = (f"openclip:{name} names no weights; took {architecture}@{tag} of {', '.join(tags)}.",)
    # The tag decides more than weights (OpenAI's models use another GELU), so it is passed even without loading them.
    model: Any = fetch(
        f"openclip:{architecture}@{tag}",
        pretrained,
        lambda: built(
            lambda: open_clip.create_model(architecture, pretrained=tag or None, load_weights=pretrained),
            filled=pretrained,
        ),
    )
    refuse_others(f"openclip:{name}", lambda: model.visual)
    preprocess = preprocess_of(model.visual)
    if not tag and tags and isinstance(preprocess, Preprocess):
        # Untagged models get CLIP's preprocessing, even architectures that are trained with another.
        preprocess = read_open_clip_config(open_clip.get_pretrained_cfg(architecture, tags[0]) or {}, preprocess.size)
    return Built(model.visual, preprocess, notes)


def from_torchvision(name: str, pretrained: bool) -> Built:
    """Build NAME of torchvision, with its default weights."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise unknown("model", name, models.list_models(module=models), "torchvision")
    refuse_others(f"torchvision:{name}", lambda: models.get_model(name, weights=None))
    weights: Any = models.get_model_weights(name)
    default = weights.DEFAULT
    module = fetch(
        f"torchvision:{name}", pretrained, lambda: models.get_model(name, weights=default if pretrained else None)
    )
    if not pretrained:  # the default weights may be for a larger image than a bare model is built for
        return Built(module, preprocess_of(module))
    setting = default.transforms()
    crop, resize = int(setting.crop_size[0]), int(setting.resize_size[0])
    return Built(
        module, Preprocess((crop, crop), resize, three(setting.mean), three(setting.std), setting.interpolation.value)
    )


def from_hub(name: str, pretrained: bool, *, trust: bool) -> Built:
    """Build an entry of a torch.hub repository, `OWNER/REPO:ENTRY`, or of a clone of one, `/path/to/clone:ENTRY`.

    This runs the repository's own code, so it must be trusted.
    """
    repository, colon, entry = name.rpartition(":")
    if not colon or not entry:
        raise UserError(
            f"hub:{name} names no entry; write hub:OWNER/REPO:ENTRY, "
            "such as hub:facebookresearch/dinov2:dinov2_vits14_reg."
        )
    folder = Path(repository).expanduser()
    if folder.is_dir():
        if not (folder / "hubconf.py").is_file():
            raise UserError(f"{folder} has no hubconf.py, so it is no torch.hub repository.")
        place: dict[str, Any] = {"repo_or_dir": str(folder.resolve()), "source": "local"}
    elif repository.startswith(("/", ".", "~")) or "/" not in repository:
        raise UserError(f"no folder {repository}; a repository on GitHub is OWNER/REPO.")
    else:
        place = {"repo_or_dir": repository, "source": "github", "trust_repo": True, "skip_validation": True}
    if not trust:
        raise untrusted(name)

    def create() -> Any:
        try:
            return torch.hub.load(**place, model=entry, verbose=False, pretrained=pretrained)
        except RuntimeError as error:
            if "Cannot find callable" in str(error):
                listing = {("github" if key == "repo_or_dir" else key): value for key, value in place.items()}
                entries = torch.hub.list(**listing, verbose=False) if place["source"] == "github" else _entries(folder)
                raise unknown("entry", entry, entries, f"hub:{repository}") from None
            if "Missing dependencies" in str(error):
                raise UserError(f"hub:{repository} needs more packages: {first_line(error)}.") from None
            raise

    module: Any = fetch(f"hub:{name}", pretrained or place["source"] == "github", create, trusted=True)
    if not isinstance(module, nn.Module):
        raise UserError(f"hub:{name} gives a {type(module).__name__}, not a model.")
    refuse_others(f"hub:{name}", lambda: module)
    return Built(module, preprocess_of(module))


def from_run(name: str, *, trust: bool = False) -> Built:
    """Build what training wrote into a folder: `config.json` and `model.safetensors`.

    config.json holds {"schema": "vitreg.run/1", "model": {arguments of models.vit.VisionTransformer}}, and, unless
    trained with ImageNet's statistics, "preprocess": {arguments of data.views.transforms.Preprocess}.
    """
    folder = Path(name).expanduser()
    file, settings = folder / "model.safetensors", folder / "config.json"
    refuse_no_run(folder)
    config = read_json(settings)
    schema = config.get("schema") if isinstance(config, dict) else None
    if schema != RUN_SCHEMA or not isinstance(config.get("model"), dict):
        raise UserError(f"{settings} has the schema {schema!r}, not '{RUN_SCHEMA}' with a 'model'.")
    own = [word for word in config["model"].values() if is_own(word)]
    if own and not trust:
        raise UserError(
            f"run:{name} runs the code of {' and '.join(own)}; add --trust (in Python trust=True) if you trust whoever wrote it."
        )
    model = _model_of_run(config["model"], settings, file)
    preprocess = preprocess_of_run(folder, model)
    report = load_weights(model, file, grid=model.grid, strict=True)
    return Built(model, preprocess, report.notes, str(file))


def preprocess_of_run(folder: Path, model: nn.Module) -> Preprocess | Unprepared:
    """Return the preprocessing of a run's model. Raises UserError if the one in config.json is invalid."""
    settings = folder / "config.json"
    config = read_json(settings)
    try:
        return _preprocess_of_run(config["preprocess"]) if "preprocess" in config else preprocess_of(model)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{settings}: its 'preprocess' is not valid ({first_line(error)}).") from None


def _model_of_run(arguments: dict[str, Any], settings: Path, file: Path) -> VisionTransformer:
    """Build our ViT, if the file of its weights is large enough to hold it."""
    from vitreg.models.vit import VisionTransformer

    try:
        check_arguments(arguments)
    except UserError as error:
        raise UserError(f"{settings} does not describe a model: {error}") from None
    if file.is_file():  # otherwise loading says so
        with torch.device("meta"):
            values = sum(value.numel() for value in VisionTransformer(**_with_tuples(arguments)).parameters())
        if values > file.stat().st_size:  # a byte each would be less than any precision takes
            raise UserError(
                f"{settings} describes a model of {values} values, and {file.name} has {file.stat().st_size} bytes: "
                "one of the two is not of this run."
            )
    return VisionTransformer(**_with_tuples(arguments))


def _preprocess_of_run(settings: dict[str, Any]) -> Preprocess:
    """Build a preprocessing. Raises ValueError, TypeError or AttributeError for invalid settings."""
    preprocess = Preprocess(**_with_tuples(settings))
    sides = (*preprocess.size, *(preprocess.resize if isinstance(preprocess.resize, tuple) else (preprocess.resize,)))
    if not all(isinstance(side, int) and side <= LARGEST_SIDE for side in sides):
        raise ValueError(f"size {preprocess.size} and resize {preprocess.resize} must be up to {LARGEST_SIDE} pixels")
    if not all(math.isfinite(value) for value in (*preprocess.mean, *preprocess.std)):
        raise ValueError(f"mean {preprocess.mean} and std {preprocess.std} must be finite")
    return preprocess


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def from_planted(name: str) -> Built:
    """Build KIND, KIND@SEED or clean of the planted models."""
    from vitreg.models.planted import from_spec

    written = (
        "no artifacts; a twin of the planted ones" if name.startswith("clean") else "artifacts were written into it"
    )
    return Built(from_spec(name), IMAGENET, (f"Planted model: {written}. Nothing is trained.",), "planted")


def from_shipped(name: str) -> Built:
    """Build a model that comes with the package, with a note on where it comes from."""
    spec = f"vitreg:{name}"
    card = card_of(spec)
    if card is None:
        raise unknown("shipped model", name, SHIPPED)
    run = from_run(str(folder_of(name)))
    return Built(run.module, run.preprocess, (note_of(card), *run.notes), "shipped with vitreg")


def from_plugin(source: str, name: str, pretrained: bool) -> Built:
    """Build a model from a plug-in source: a function (name, pretrained) → module, or (module, Preprocess).

    Raises:
        UserError: for a source that cannot be found or imported, fails, or gives something else.
    """
    build = plugins.find("source", source)
    with plugins.blamed("source", source):
        made = build(name, pretrained)
    module, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module) or not isinstance(preprocess, Preprocess | None):
        raise UserError(
            f"the source '{source}' gives {type(made).__name__} for '{name}', not a module, or a module and its Preprocess."
        )
    return Built(module.eval(), preprocess or preprocess_of(module), (f"Built by the plug-in '{source}'.",))


def _entries(folder: Path) -> list[str]:
    """List the functions that a clone's hubconf.py defines or imports, without running it."""
    import ast

    names: list[str] = []
    for node in ast.parse((folder / "hubconf.py").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_")]
