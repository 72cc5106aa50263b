"""`vitreg maps`: attention, principal components and norms of any ViT, at any block and resolution.

Maps are arrays in memory (`values`); with `out` they are also drawn as contact sheets like the paper's Figs. 1, 2, 9 and
14 to 16 (`sheets`). Attention is read for the class token and the registers only, so memory does not grow with the
square of the number of tokens (`model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.loading.load import opened, refuse_reloading
from vitreg.backbones.trace import resolve_layer
from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.passes.findings import refuse_broken_weights
from vitreg.passes.given import Images, gathered, given
from vitreg.passes.options import Layers, ModelOptions, split, takes
from vitreg.records import Skipped
from vitreg.report import Attempts
from vitreg.report.sheets.kept import Named, keep_and_draw
from vitreg.verbs.maps.model import MappedModel
from vitreg.verbs.maps.options import MapsOptions, weights_of
from vitreg.verbs.maps.result import MapsResult
from vitreg.verbs.maps.sheets import compose
from vitreg.verbs.maps.values import ModelMaps
from vitreg.writing.files import results_folder
from vitreg.writing.outputs import Outputs

Model = str | Path | nn.Module | Backbone


@takes(MapsOptions, ModelOptions)
def maps(
    models: Model | Sequence[Model],
    images: Images,
    *,
    out: str | Path | None = None,
    weights: str | Path | Sequence[str | Path | None] | None = None,
    options: MapsOptions | None = None,
    **keywords: Any,
) -> MapsResult:
    """Compute maps of images by one or several models, and draw them.

    Args:
        models: specs, modules or loaded backbones. Specs are loaded one at a time.
        images: files, folders, globs, archives, list files; pictures; a tensor [n, 3, H, W] prepared for the model; a
            dataset or a loader, see `vitreg.passes.given`.
        out: folder for the PNG sheets; nothing is written without it.
        weights: a checkpoint for the model, or one per model (or None).
        options: see `MapsOptions`; keywords override them.
        keywords: fields of `MapsOptions`, such as what, layer and size, and of `ModelOptions`, such as device and precision.
    Raises:
        UserError: for a model that cannot be loaded or has broken weights, an unknown block or kind of map, images none of
            which can be read, an unwritable folder, or models that can give none of the maps.
    """
    options, load_options = split(MapsOptions, options, keywords, "maps")
    several = cast("list[Model]", list(models) if isinstance(models, list | tuple) else [models])
    if not several:
        raise UserError("no model given; name a spec such as timm:vit_small_patch14_reg4_dinov2.")
    files = weights_of(weights, len(several))
    for model, file in zip(several, files, strict=True):
        refuse_reloading(model, file, load_options)
    ahead.refuse_absent_inputs(images, files=files)
    with results_folder(out) as folder:
        outputs = None if folder is None else ahead.maps_outputs(folder, options.what, images, files)
        if outputs is not None:
            outputs.check()
        result = _computed(several, files, images, options, load_options)
        return result if outputs is None else _drawn(result, outputs, options)


def _computed(
    models: Sequence[Model],
    files: Sequence[str | Path | None],
    images: Images,
    options: MapsOptions,
    loading: dict[str, Any],
) -> MapsResult:
    """Compute the maps, with one model in memory at a time."""
    source = gathered(given(images), options.limit)
    made: list[ModelMaps] = []
    chosen_precision: dict[str, None] = {}  # each sentence once, for any number of models
    notes: list[str] = [] if isinstance(source, Tensor) else list(source.notes)
    names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    for model, file in zip(models, files, strict=True):
        backbone = opened(model, file, loading, size=options.pixels)
        refuse_broken_weights(backbone, "maps of")
        name = _name(backbone, [each.model for each in made])
        notes += [f"{name}: {note}" for note in backbone.notes]
        if backbone.precision_choice is not None:
            chosen_precision.setdefault(backbone.precision_choice.sentence)
        one = MappedModel(
            name, backbone, source, options.pixels, options.fit, options.limit, options.batch_size, options.threads
        )
        request = one.request(options.what, _layers(options.layer, backbone.depth))
        notes += request.notes
        if request.what:
            made += one.run(request, per_image=options.pca_per_image)
            if names and one.names != names:
                raise UserError("the images changed between one model and the next; run again.")
            names, skipped = one.names, one.skipped
        del backbone, one  # before the next is loaded
    if not made:
        raise UserError("none of the maps asked for can be had. " + " ".join(notes))
    return MapsResult(
        images=names,
        maps=tuple(made),
        skipped=skipped,
        notes=(*notes, *chosen_precision),
        there=len(source) if isinstance(source, Tensor) else source.length,
        options=options,
    )


def _drawn(result: MapsResult, outputs: Outputs, options: MapsOptions) -> MapsResult:
    """Draw the sheets of a result. Returns it with their paths."""
    shared = options.scale == "shared"
    sheets = compose(
        result.images, result.maps, options.what, shared=shared, upsample=options.upsample, mass=options.mass
    )
    attempts = Attempts()
    outputs.publish(lambda place: _draw(sheets, place, attempts))
    failed = {each.name: each.sentence for each in attempts.failed}
    written = tuple(outputs.folder / file for file, _ in sheets if file not in failed)
    return replace(result, notes=(*result.notes, *failed.values()), paths=written)


def _layers(layer: Layers, depth: int) -> list[int]:
    """Return the blocks counted from 0, without repeats. Raises UserError for a block that does not exist."""
    asked = range(depth) if layer == "all" else [layer] if isinstance(layer, int) else layer
    return list(dict.fromkeys(resolve_layer(each, depth) for each in asked))


def _draw(sheets: Sequence[Named], place: Path, attempts: Attempts) -> None:
    """Draw the sheets. Each kind is kept in a separate file, so a later call for other kinds leaves it alone."""
    for kind, each in groupby(sheets, lambda named: named[0].removesuffix(".png").partition("-")[0]):
        keep_and_draw(list(each), place, f"{kind}.npz", attempts)


def _name(backbone: Backbone, taken: Sequence[str]) -> str:
    """Return a model's unique title: its spec, and its weights if they are not the library's."""
    name = backbone.spec
    if backbone.weights_source == "random":
        name += " (random weights)"
    elif Path(backbone.weights_source).suffix:
        name += f" ({Path(backbone.weights_source).name})"
    same = len({each for each in taken if each == name or each.startswith(f"{name} #")})
    return f"{name} #{same + 1}" if same else name
