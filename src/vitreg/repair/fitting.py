"""`fit_repair`: a model and images -> `Repair`, judged on images it was not fitted on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import nn

import vitreg
from vitreg import specs
from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.passes.batches import batches_of
from vitreg.passes.findings import refuse_broken_weights
from vitreg.passes.given import Images
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.quantities import there_are
from vitreg.repair.asked import wanted
from vitreg.repair.effect import Effects
from vitreg.repair.method import Method
from vitreg.repair.methods import method_named
from vitreg.repair.record import Base, RepairRecord
from vitreg.repair.repair import Repair, content_hash, weights_hash
from vitreg.repair.settings import FitOptions, MethodSettings
from vitreg.repair.subject import Kept, Subject


@takes(FitOptions, ModelOptions)
def fit_repair(
    model: str | nn.Module | Backbone,
    images: Images,
    method: str = "test-time",
    *,
    settings: MethodSettings | None = None,
    options: FitOptions | None = None,
    weights: str | None = None,
    **keywords: Any,
) -> Repair:
    """Fit a repair to a model on images.

    Args:
        model: a spec, a module, or a loaded backbone.
        images: as `vitreg.scan` takes them; half of them only judge the result.
        method: "test-time", or another of `vitreg fix --help`.
        settings: of the method; keywords override them.
        options: see `FitOptions`; keywords override them.
        keywords: fields of the method's settings, of `FitOptions` and of `ModelOptions`.
    Returns:
        the repair, whose `record.held_out` says what it does to held-out images.
    Raises:
        NothingToRepairError: if the model has no outliers on these images.
        UserError: for too few images, a model that this method cannot repair, and as `vitreg.load` does.
    """
    chosen = method_named(method)
    settings, others = with_settings(chosen, settings, keywords)
    options, loading = split(FitOptions, options, others, "fit_repair")
    backbone = opened(model, weights, loading, size=options.pixels)
    with subject_of(backbone, images, options) as subject:
        return fit_subject(subject, chosen, settings)


def with_settings(
    method: Method, settings: MethodSettings | None, keywords: Mapping[str, Any]
) -> tuple[MethodSettings, dict[str, Any]]:
    """Return a method's settings with the keywords that belong to them, and the other keywords.

    Raises:
        UserError: for settings of another method, or out of range.
    """
    own = {each.name for each in fields(method.settings)}
    given = {name: value for name, value in keywords.items() if name in own}
    if settings is not None and not isinstance(settings, method.settings):
        raise UserError(f"settings of {method.name} are a {method.settings.__name__}, not a {type(settings).__name__}.")
    values = {**({} if settings is None else asdict(settings)), **given}
    made = method.settings(**values)
    made.check()
    return made, {name: value for name, value in keywords.items() if name not in own}


def subject_of(
    backbone: Backbone, images: Images, options: FitOptions, *, show: bool = False, choose: bool = True
) -> Subject:
    """Read the images, and deal them to the parts. Use it in a `with`: it holds a temporary file.

    Args:
        show: whether long fits show their progress on standard error.
        choose: keep images to choose with; without, half are fitted on and half judge.
    Raises:
        UserError: for images that cannot be read, or weights that are no numbers.
    """
    refuse_broken_weights(backbone)
    batches = batches_of(
        images, backbone, Processes(), size=options.pixels, policy=options.fit, batch_size=options.batch_size,
        workers=options.threads, limit=options.limit,
    )  # fmt: skip
    kept = Kept(batches, options.limit or FitOptions.limit or 500, options.seed, choose=choose)
    return Subject(backbone, kept, batches.size, options.seed, force=options.force, random=options.control, show=show)


def base_of(backbone: Backbone) -> Base:
    """Say which model a repair belongs to, such that it opens from any folder."""
    source, spec = backbone.weights_source, _spec_of(backbone)
    library = spec.partition(":")[0]
    from_file = library in specs.LIBRARIES and source not in ("library", "random")
    return Base(
        spec=spec,
        file=str(Path(source).absolute()) if from_file else "",
        weights_size=backbone.weights_size if from_file else None,
        allow_partial=backbone.allow_partial and from_file,
        random=bool(spec) and library != "fixed" and source == "random",
        weights_sha256=weights_hash(backbone),
        library=backbone.anatomy.library,
        blocks=backbone.depth,
        width=backbone.anatomy.width,
        edits=list(backbone.edit_names),
    )


def _spec_of(backbone: Backbone) -> str:
    """Return the spec that opens a model, its folder an absolute path; "" for a module, and for one that is edited beyond its
    spec."""
    if backbone.spec.startswith("module:"):
        return ""
    if backbone.base is not None or backbone.edit_names:  # "fixed:A + clip-norm" opens nothing
        folder = backbone.spec.removeprefix("fixed:")
        if folder == backbone.spec or not specs.is_repair(Path(folder).expanduser()):
            return ""
    return specs.absolute(backbone.spec)


def fit_named(subject: Subject, word: str) -> Repair:
    """Fit a method given as a word, such as "substitute:detector=lof". Raises UserError as `wanted` and `fit_subject` do."""
    asked = wanted(word)
    return fit_subject(subject, method_named(asked.name), asked.settings)


def fit_subject(subject: Subject, method: Method, settings: MethodSettings) -> Repair:
    """Fit a method, and judge it on the held-out images.

    Raises:
        UserError: for too few images, and as the method does.
    """
    backbone, began = subject.backbone, time.perf_counter()
    if len(subject.images) < method.fewest:
        raise UserError(
            f"{method.name} is fitted on at least {method.fewest} images, and {there_are(len(subject.images))}."
        )
    if method.choose is not None:
        return method.choose(subject, settings, fit_named)
    outliers = subject.outliers if method.needs_outliers else None
    found = method.fit(subject, settings)
    record = RepairRecord(
        method=method.name,
        settings={name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()},
        base=base_of(backbone),
        size=subject.size,
        images=subject.images.count("fit") + subject.images.count("tune"),
        seconds=time.perf_counter() - began,
        outliers=None if outliers is None else outliers.record,
        details=dict(found.details),
        notes=list(found.notes),
        random=subject.random,
        vitreg=vitreg.__version__,
    )  # fmt: skip
    written = record.model_dump(mode="json")["details"]
    record = record.model_copy(update={"sha256": content_hash(written, found.tensors)})
    repair = Repair(record, found.tensors)
    if outliers is None or not subject.images.count("held_out"):
        return repair
    effect = Effects(subject, outliers, "held_out").of(repair.apply(backbone))
    return Repair(record.model_copy(update={"held_out": effect}), found.tensors)
