"""`load`: a spec or a module -> `Backbone`, with weights from the library, from a file, or untrained.

`sources.py` builds the models of each library; `backbones/weights` reads files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitreg import specs
from vitreg.backbones.anatomy.find import Anatomy, find_anatomy
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.edited_module import without_edits
from vitreg.backbones.loading import sources, timm_folders
from vitreg.backbones.loading.foreign_runs import base_of, fill_from_run
from vitreg.backbones.loading.given import spec_or_module
from vitreg.backbones.loading.hugging_face import from_transformers
from vitreg.backbones.loading.preprocessing import preprocess_of
from vitreg.backbones.weights.checkpoints import open_checkpoint
from vitreg.backbones.weights.into_module import LoadReport, blocks_in, holds, load_state, sha256_of_weights
from vitreg.documents import read_json
from vitreg.errors import UserError, nearest, unknown
from vitreg.machine.precision import DTYPES, Precision, choose_precision
from vitreg.machine.runtime import choose_device
from vitreg.writing.files import run_folder

_LIBRARIES: dict[str, Callable[[str, bool], sources.Built]] = {
    "timm": sources.from_timm,
    "hf": from_transformers,
    "openclip": sources.from_open_clip,
    "torchvision": sources.from_torchvision,
}


def load(
    spec: str | Path | nn.Module,
    *,
    weights: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    weights_size: int | tuple[int, int] | None = None,
    random: bool = False,
    strict: bool = False,
    allow_partial: bool = False,
    device: str | torch.device | None = None,
    precision: Precision = "auto",
    trust: bool = False,
    repair: str | Path | None = None,
) -> Backbone:
    """Load any Vision Transformer.

    Args:
        spec: `timm:NAME[.TAG]`, `timm:local-dir:PATH`, `timm:hf-hub:REPO`, `hf:REPO_OR_DIR`, `openclip:ARCH[@TAG]`,
            `hub:OWNER/REPO:ENTRY` or `hub:/path/to/clone:ENTRY` (needs `trust`), `torchvision:NAME`, `run:DIR` or the folder
            of a run alone, `fixed:DIR` (a repair and the model it was fitted on), `planted:KIND[@SEED]`,
            `vitreg:born` or `vitreg:born-reg4`, which come with the package, or a module of these families.
        weights: .safetensors or .pth in any layout of `weights.names.TITLES`, the index of several such files or the folder
            it is in; without it the library's pretrained weights.
        image_size: pixels, one number or (height, width), that photographs are prepared for; None: the model's native
            size. Position tables are resampled at run time.
        weights_size: image size in pixels that `weights` was trained at, for a position table that neither fits the
            model nor is square; None: `image_size`.
        random: untrained weights from a fixed seed.
        strict: refuse a file whose position table or head would have to be adapted.
        allow_partial: accept a file with missing or unexpected tensors; they are listed in the notes.
        device: the best there is if None; a module stays where it is.
        precision: of parameters and activations. "auto" is bf16 if it is faster on this machine (measured once) and
            keeps this model's attention accurate, else fp32; a module keeps its own.
            A given module is never changed: it is copied if necessary.
        trust: run the code of a `hub:` repository, or the `module:function` of a run with parts of somebody's own. No
            other source runs any.
        repair: the folder of a repair of this model, which `vitreg fix` wrote.
    Raises:
        UserError: for an unknown name, weights that cannot be fetched, read or fitted, or a model that is no ViT.
    """
    if precision != "auto" and precision not in DTYPES:
        raise unknown("precision", str(precision), ("auto", *DTYPES))
    if random and weights is not None:
        raise UserError("weights from a file and random weights exclude each other; leave one out.")
    if repair is not None or specs.names_repair(spec):
        keywords = {
            "image_size": image_size, "weights_size": weights_size, "strict": strict, "allow_partial": allow_partial,
            "device": device, "precision": precision, "trust": trust,
        }  # fmt: skip
        return _repaired(spec, repair, weights, keywords, random=random)
    return _with_precision(
        _Asked(
            spec_or_module(spec), None if weights is None else Path(weights), _size(image_size), _size(weights_size),
            random=random, strict=strict, allow_partial=allow_partial, device=device, precision=precision, trust=trust,
        )
    )  # fmt: skip


def _with_precision(asked: _Asked) -> Backbone:
    """Load a model; again in fp32 where bf16 was chosen and spoils its attention."""
    backbone = _loaded(asked)
    choice = backbone.precision_choice
    if choice is None or backbone.dtype == torch.float32 or not backbone.attention_status().rounding:
        return backbone
    why = f"{choice.why.removesuffix('.')}, but {backbone.attention_status().reason.split(':')[0]}."
    del backbone  # before reloading: casting back would keep bf16's rounding
    backbone = _loaded(replace(asked, precision="fp32"))
    backbone.precision_choice = choice.model_copy(update={"chosen": "fp32", "why": why})
    return backbone


def _repaired(
    spec: str | Path | nn.Module, repair: str | Path | None, weights: str | Path | None, keywords: dict[str, Any],
    *, random: bool,
) -> Backbone:  # fmt: skip
    """Load a model and repair it. Repairs stand on a floor above: they run models, and a repaired model is loaded here."""
    from vitreg.repair.opened import open_fixed, with_repair

    if repair is not None:
        return with_repair(load(spec, weights=weights, random=random, **keywords), repair)
    name = specs.whole(str(spec))
    specs.refuse(name, random=random, weights=weights)
    return open_fixed(name.partition(":")[2], load, keywords)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of `load`, with sizes as (height, width)."""

    spec: str | nn.Module
    weights: Path | None
    size: tuple[int, int] | None
    weights_size: tuple[int, int] | None
    random: bool
    strict: bool
    allow_partial: bool
    device: str | torch.device | None
    precision: Precision
    trust: bool


def _loaded(asked: _Asked) -> Backbone:
    """Build, fill, move and cast."""
    given = isinstance(asked.spec, nn.Module)
    plain, sets = without_edits(asked.spec) if isinstance(asked.spec, nn.Module) else (asked.spec, ())
    if sets:  # of a repaired module
        backbone = _loaded(replace(asked, spec=plain))
        for each in sets:
            backbone = backbone.edited(each.edits, each.name, leaving=each.leaving)
        return backbone
    built, name, where = _given(asked, asked.spec) if isinstance(asked.spec, nn.Module) else _named(asked, asked.spec)
    notes = list(built.notes)
    try:
        anatomy = find_anatomy(built.module)
    except UserError as error:
        raise UserError(f"{error}" if given else f"{name}: {error}") from None

    source = built.weights or ("random" if asked.random else "library")
    untrained = "These weights are random: the model was not trained." if asked.random else ""
    trained = asked.size if asked.weights_size is None else asked.weights_size
    if asked.weights is not None:
        anatomy, report = _fill(anatomy, asked.weights, trained, asked.strict, asked.allow_partial)
        notes += report.notes
        source = str(asked.weights)
        if report.untrained:
            untrained = _partly_untrained(report.untrained, len(anatomy.blocks), asked.weights.name, given=given)
        elif report.cut:
            count = f"{len(report.cut)} tensor{'s' * (len(report.cut) > 1)}"
            untrained = f"The model leaves out {count} of {asked.weights.name}: this is not the model that was trained."
    digest = sha256_of_weights(anatomy.tower)
    if not given:
        built.module.eval().requires_grad_(False)
    dtype, choice = None, None
    if not given or asked.precision != "auto":
        dtype, choice = choose_precision(asked.precision, where or torch.device("cpu"))
    # Anatomies look parameters up on each call, so this one stays valid after moving and casting in place.
    anatomy.tower.to(device=where, dtype=dtype)
    backbone = Backbone(
        built.module if given else anatomy.tower,
        anatomy,
        built.preprocess if asked.size is None else built.preprocess.with_size(asked.size),
        spec=name,
        weights_source=source,
        weights_sha256=digest,
        notes=tuple(notes),
        untrained=untrained,
        precision_choice=choice,
    )
    if asked.weights is not None:
        # Read for no size, a file is read as for the model's own.
        backbone.weights_size, backbone.allow_partial = trained or anatomy.native_size, asked.allow_partial
    return backbone


def _given(asked: _Asked, module: nn.Module) -> tuple[sources.Built, str, torch.device | None]:
    """Take a module, or a copy if it must change: (built module, its name, target device)."""
    if asked.random:
        raise UserError("random weights are for specs; a module comes with its own.")
    where = None if asked.device is None else choose_device(str(asked.device))
    same = asked.weights is None and where is None and asked.precision == "auto"
    built = sources.Built(module if same else copy.deepcopy(module), preprocess_of(module), weights="module")
    return built, f"module:{type(module).__name__}", where


def _named(asked: _Asked, spec: str) -> tuple[sources.Built, str, torch.device]:
    """Build the model of a spec: (built module, full spec, target device)."""
    where = choose_device(None if asked.device is None else str(asked.device))
    specs.refuse(spec, random=asked.random, weights=asked.weights, trust=asked.trust)
    spec = specs.whole(spec)
    pretrained = asked.weights is None and not asked.random
    return _build(spec, pretrained, asked.trust), spec, where


def opened(
    model: str | Path | nn.Module | Backbone,
    weights: str | Path | None,
    options: Mapping[str, Any],
    *,
    size: int | tuple[int, int] | None = None,
) -> Backbone:
    """Return a verb's model argument as a backbone; a loaded one unchanged.

    Args:
        size: of the images that the verb shows the model; `weights` may have been trained at it.
    Raises:
        UserError: as `load` does, and for weights or options beside a loaded backbone.
    """
    refuse_reloading(model, weights, options)
    if isinstance(model, Backbone):
        return model
    loading: dict[str, Any] = {"weights_size": size, **options}
    return load(model, weights=weights, **loading)


def refuse_reloading(model: object, weights: object, options: Mapping[str, Any]) -> None:
    """Raise UserError for weights or options of `load` beside a backbone that is loaded."""
    if isinstance(model, Backbone) and (weights is not None or options):
        raise UserError("a loaded backbone keeps its weights, device and precision; give them to vitreg.load instead.")


def _fill(
    anatomy: Anatomy, weights: Path, size: tuple[int, int] | None, strict: bool, allow_partial: bool
) -> tuple[Anatomy, LoadReport]:
    """Load a file into the tower; if its position table is for images of `size`, resize the tower first."""
    (height, width), (rows, cols) = anatomy.native_size, anatomy.patch
    state, notes = open_checkpoint(weights)
    trained = None
    if size is not None and not size[0] % rows and not size[1] % cols:
        trained = (size[0] // rows, size[1] // cols)
    if (
        trained is not None
        and size is not None
        and holds(state, anatomy.tower, (height // rows, width // cols), trained)
    ):
        resize = getattr(anatomy.tower, "set_input_size", None)  # timm's; elsewhere the table is resampled
        if resize is not None:
            resize(img_size=size)
            anatomy = find_anatomy(anatomy.tower)
            height, width = anatomy.native_size
    report = load_state(
        anatomy.tower, state, weights.name, grid=(height // rows, width // cols), trained_grid=trained,
        strict=strict, allow_partial=allow_partial, notes=notes,
    )  # fmt: skip
    return anatomy, report


def _partly_untrained(names: tuple[str, ...], depth: int, source: str, *, given: bool) -> str:
    """Name the tensors that a partial load left untrained."""
    whole = sorted(int(number) for number in blocks_in(names))
    others = [name for name in names if not name.startswith("blocks.")]
    parts = [f"{len(whole)} of {depth} blocks ({', '.join(map(str, whole))})"] if whole else []
    parts += (
        [f"{len(others)} other tensor{'s' * (len(others) > 1)} ({', '.join(others[:4])}{', …' * (len(others) > 4)})"]
        if others
        else []
    )
    values = "keep the values they had" if given else "hold random values"
    return f"{' and '.join(parts)} are not, or not wholly, in {source} and {values}: this is no trained model."


def _build(spec: str, pretrained: bool, trust: bool) -> sources.Built:
    prefix, _colon, name = spec.partition(":")
    if not specs.has_source(spec):
        raise _no_such_spec(spec)
    if prefix == "run" and (base := base_of(spec)) is not None:
        module, file, notes = fill_from_run(spec, base, load)
        return sources.Built(module, sources.preprocess_of_run(run_folder(spec), module), tuple(notes), str(file))
    if prefix == "run":
        return sources.from_run(name, trust=trust)
    if prefix == "planted":
        return sources.from_planted(name)
    if prefix == "vitreg":
        return sources.from_shipped(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed CUDA, whose state stays
        if prefix == "hub":
            return sources.from_hub(name, pretrained, trust=trust)
        return (
            _LIBRARIES[prefix](name, pretrained)
            if prefix in _LIBRARIES
            else sources.from_plugin(prefix, name, pretrained)
        )


def _no_such_spec(spec: str) -> UserError:
    """Explain a spec without a source: the bare name of a model, or a folder."""
    folder = Path(spec).expanduser()
    if (folder / "config.json").is_file():
        kind = "timm:local-dir" if timm_folders.describes_timm(read_json(folder / "config.json")) else "hf"
        return UserError(f"'{spec}' does not say where the model comes from. Did you mean '{kind}:{spec}'?")
    from timm import is_model, list_models

    if is_model(spec.partition(".")[0]):
        return UserError(f"'{spec}' does not say where the model comes from. Did you mean 'timm:{spec}'?")
    from torchvision import models

    candidates = [f"timm:{n}" for n in list_models()] + [f"torchvision:{n}" for n in models.list_models(module=models)]
    try:
        from open_clip import list_models as list_open_clip

        candidates += [f"openclip:{n}" for n in list_open_clip()]
    except ImportError:
        pass
    by_name = {candidate.partition(":")[2]: candidate for candidate in reversed(candidates)}
    close = [repr(by_name[n]) for n in nearest(spec, by_name)]
    hint = (
        f"Did you mean {' or '.join(close)}?"
        if close
        else f"Write SOURCE:NAME, SOURCE one of {', '.join(specs.SOURCES)}."
    )
    return UserError(f"'{spec}' does not say where the model comes from. {hint}")


def _size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"an image size is one number or (height, width) in pixels, not {image_size}.")
    return size[0], size[1]
