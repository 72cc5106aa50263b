"""`vitreg fix`: fits a repair to a model, keeps it as a folder, and draws maps before and after."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened, refuse_reloading
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.passes.given import Images
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.quantities import number, percent
from vitreg.repair.fitting import fit_subject, subject_of, with_settings
from vitreg.repair.methods import method_named
from vitreg.repair.repair import Repair, load_repair
from vitreg.repair.settings import FitOptions, MethodSettings
from vitreg.verbs.maps.verb import maps
from vitreg.writing.files import results_folder

SHOWN = 6  # images


@takes(FitOptions, ModelOptions)
def fix(
    method: str,
    model: str | nn.Module | Backbone,
    images: Images,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    settings: MethodSettings | None = None,
    options: FitOptions | None = None,
    quiet: bool = True,
    **keywords: Any,
) -> Repair:
    """Fit a repair and keep it as a folder, with maps before and after.

    Args:
        method: "test-time", or another of `vitreg fix --help`.
        model: a spec, a module, or a loaded backbone.
        images: as `vitreg.scan` takes them.
        out: folder for repair.json, repair.safetensors, norm.png and attention.png, of a repair of neurons also
            neurons.json; `fixed:OUT` is the repaired model.
        weights: a checkpoint for the spec.
        settings: of the method; keywords override them.
        options: see `FitOptions`; keywords override them.
        keywords: fields of the method's settings, of `FitOptions` and of `ModelOptions`.
    Raises:
        NothingToRepairError: if the model has no outliers on these images.
        UserError: as `vitreg.fit_repair`, and for a folder with files that are not vitreg's.
    """
    chosen = method_named(method)
    settings, others = with_settings(chosen, settings, keywords)
    options, loading = split(FitOptions, options, others, "fix")
    refuse_reloading(model, weights, loading)
    ahead.refuse_absent_inputs(images, files=[weights])
    for file in settings.files:
        ahead.refuse_absent_truth(settings=file)
    with results_folder(out) as folder:
        assert folder is not None  # `out` was given
        for outputs in ahead.fix_outputs(folder, images, weights, settings.files):
            outputs.check()
        backbone = opened(model, weights, loading, size=options.pixels)
        with subject_of(backbone, images, options, show=not quiet) as subject:
            repair = fit_subject(subject, chosen, settings)
        repair.save(folder)
        _draw(backbone, repair, images, folder, options)
    return repair


def _draw(backbone: Backbone, repair: Repair, images: Images, folder: Path, options: FitOptions) -> None:
    """Draw norms at the peak, and attention of the class token, of some images before and after."""
    fixed, outliers = repair.apply(backbone), repair.record.outliers
    shown: dict[str, Any] = {"limit": SHOWN, "fit": options.fit, "size": options.size, "workers": options.workers}
    try:
        maps([backbone, fixed], images, out=folder, what=("norm",), layer=outliers.peak if outliers else -1, **shown)
        maps([backbone, fixed], images, out=folder, what=("attention",), **shown)
    except UserError as error:  # the repair is on disk; some models have no attention to read
        say(f"vitreg: maps before and after were not all drawn: {error}", error=True)


def summary(repair: Repair, out: Path, before: Path | None = None) -> str:
    """Return what the repair did, as lines for a terminal.

    Args:
        before: the folder of the repair that the model had, where it was named beside the model.
    """
    record = repair.record
    lines = [
        f"{record.method} on {record.base.title}, made from {record.images} images at {'x'.join(map(str, record.size))}."
    ]
    effect, found = record.held_out, record.outliers
    if found is not None and found.forced:
        lines.append(
            "The model has no second group of norms; the patches with the largest norms were repaired, as --force says."
        )
    if effect is not None:
        lines.append(
            f"Outliers: {percent(effect.before)} of the patches of {effect.images} held-out images before, {percent(effect.share)} "
            f"after. The class token changed by {number(effect.cls_change)} (1 - cosine)."
        )
        if effect.share > effect.before / 2:
            lines.append("The repair does not help here: compare methods with vitreg repairs.")
    lines += record.notes
    return "\n".join([*lines, _use(repair, out, before)])


def _use(repair: Repair, out: Path, before: Path | None) -> str:
    """Return the sentence that says how the repaired model is named."""
    spec, then = quote(f"fixed:{out}"), ""
    if not repair.record.base.spec:
        first = None if before is None else load_repair(before)
        if first is None or not first.record.base.spec:
            return "Use it in Python, after the repair that the model had: second.apply(first.apply(backbone))."
        spec, then = quote(f"fixed:{before}"), f" --repair {quote(str(out))}"
    return f"Use it as {spec}{then} in place of a model, for example: vitreg scan {spec} IMAGES{then}"
