"""`vitreg export`: any model for another library, loaded back there and compared before it is kept.

`model.py` opens it, and `timm.py`, `hf.py`, `files.py` and `onnx.py` write each format. Common to all: weights needed for
training only are left out, and no file is half-written or overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.given import spec_or_module
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.config import read
from vitreg.errors import UserError
from vitreg.notebook import Shown
from vitreg.passes.ahead import CARD, export_outputs, refuse_no_model
from vitreg.passes.keywords import Size
from vitreg.passes.options import refuse_unknown, takes
from vitreg.recipes.known import kinds
from vitreg.specs import EXPORTS, whole
from vitreg.verbs.export.files import answers_of_safetensors, described, write_safetensors
from vitreg.verbs.export.hf import answers_of_hf, write_hf
from vitreg.verbs.export.model import Answers, Model, model_of, opened
from vitreg.verbs.export.onnx import SCHEMA, answers_of_onnx, write_onnx
from vitreg.verbs.export.options import ExportedOptions, ExportOptions
from vitreg.verbs.export.timm import answers_of_timm, write_timm
from vitreg.writing.files import results_folder, run_folder
from vitreg.writing.outputs import Outputs

TOLERANCE = 1e-4  # of the largest value of an output, and of 1 where all are smaller


@dataclass(frozen=True, slots=True)
class Format:
    """A format to export to.

    Args:
        package: the package that loads it.
        write: writes a model; returns sentences for the user.
        answers: loads the export, and returns its tokens, pooled output and logits for images, as far as it has them;
            None if only its form could be checked.
    """

    package: str
    write: Callable[[Model, Path], list[str]]
    answers: Callable[[Model, Path, Tensor], Answers | None]


FORMATS = {
    "timm": Format("timm", write_timm, answers_of_timm),
    "hf": Format("transformers", write_hf, answers_of_hf),
    "safetensors": Format("safetensors", write_safetensors, answers_of_safetensors),
    "onnx": Format("onnxruntime", write_onnx, answers_of_onnx),
}
FORMATS["transformers"] = FORMATS["hf"]


@dataclass(frozen=True, slots=True)
class Exported(Shown):
    """The path of an export, and its largest difference from the model on three drawn images (None: could not be run)."""

    path: Path
    difference: float | None
    notes: tuple[str, ...]


@takes(ExportedOptions)
def export(
    model: str | Path | nn.Module | Backbone,
    to: str,
    out: str | Path,
    *,
    size: Size | None = None,
    weights: str | Path | None = None,
    **keywords: Any,
) -> Exported:
    """Write a model for another library, and compare what is loaded there with it.

    Args:
        model: the folder of a run or of a repair, any spec that `vitreg.load` takes, a module, or a loaded backbone,
            repaired or not.
        to: "timm" or "hf" ("transformers"), a folder; "safetensors" or "onnx", a file.
        out: the folder or file. Only an earlier export there is replaced.
        size: image size of an ONNX model in pixels, one number or (height, width); the model's own if None.
        weights: a checkpoint for the model.
        keywords: fields of `ExportedOptions`, such as repair and random.
    Raises:
        UserError: for a model that cannot be read or that the format cannot express, a missing package, an `out` in use,
            or an export whose outputs differ from the model's.
    """
    pixels = ExportOptions(to=cast("Any", to), size=size).pixels
    refuse_unknown(keywords, [*ExportedOptions.__dataclass_fields__], "export")
    if isinstance(model, str | Path):
        refuse_no_model(str(model))
        ExportedOptions(weights=None if weights is None else Path(weights), **keywords).check(str(model), weights)
    form, out = FORMATS[to], Path(out)
    outputs = export_outputs(out, to)
    outputs.check()
    held = model if isinstance(model, Backbone) else spec_or_module(model)
    backbone = opened(held, None if weights is None else str(weights), keywords)
    subject = model_of(backbone, "hf" if to == "transformers" else to, pixels)
    images = _images(subject)
    with results_folder(outputs.folder):
        notes, difference = _written(subject, to, form, out, outputs, images)
    left_out = _left_out(run_folder(held)) if isinstance(held, str) and whole(held).startswith("run:") else []
    return Exported(out, difference, (*backbone.notes, *left_out, *notes))


def _written(
    model: Model, to: str, form: Format, out: Path, outputs: Outputs, images: Tensor
) -> tuple[list[str], float | None]:
    """Write beside `out`, compare, and move it there."""
    file = bool(EXPORTS[to])
    with outputs.stage() as stage:
        made = stage.path / out.name if file else stage.path
        try:
            notes = form.write(model, made)
            difference = _difference(model.answers(images), form.answers(model, made, images), out, form)
            if not file:
                _write_card(made, to, form, model, difference)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
        except SafetensorError as error:  # raised on a full disk
            raise UserError(f"cannot write {out}: {error}.") from error
        outputs.publish(lambda place: None, stage=stage)
    return notes, difference


def summary(exported: Exported, to: str) -> str:
    """Return a sentence on what was written, and how it was checked."""
    package = FORMATS[to].package
    if exported.difference is None:
        return f"Wrote {exported.path}; it is well formed, but was not run."
    return (
        f"Wrote {exported.path}. Loaded back with {package} {metadata.version(package)}, its outputs for three drawn "
        f"images differ from the model's by at most {exported.difference:.1e}."
    )


def _images(model: Model) -> Float[Tensor, "3 C H W"]:
    """Return noise, and two images with plain parts: outliers, which repairs act on, appear where little is to be seen."""
    draw = torch.Generator().manual_seed(0)
    channels, (height, width) = model.backbone.anatomy.channels, model.size
    noise = torch.randn(3, channels, height, width, generator=draw)
    noise[1, :, : height // 2] = 0.5
    ramp = torch.linspace(-1, 1, height)[:, None] * torch.linspace(-1, 1, width)
    noise[2] = ramp + 0.05 * noise[2]
    return noise


def _difference(ours: Answers, theirs: Answers | None, out: Path, form: Format) -> float | None:
    """Return the largest difference among outputs that both have, in units of the largest value above 1.

    Raises:
        UserError: if it is too large.
    """
    if theirs is None:
        return None
    shared = ours.keys() & theirs.keys()
    assert "tokens" in shared, "every model has tokens"
    largest = max(
        float((theirs[name] - ours[name]).abs().max() / ours[name].abs().max().clamp_min(1)) for name in shared
    )
    if not largest <= TOLERANCE:
        raise UserError(
            f"loaded back with {form.package} {metadata.version(form.package)}, it answers otherwise than the model "
            f"(largest difference {largest:.1e}, allowed {TOLERANCE:.0e}); {out} was not written."
        )
    return largest


def _left_out(run: Path) -> list[str]:
    """Say what the export leaves out, such as a text tower, as the recipe reports it."""
    match read(run / "config.json"):
        case {"train": {"recipe": {"kind": str(kind)}}}:
            sentence = kinds()[kind].left_out if kind in kinds() else ""
            return [sentence] if sentence else []
        case _:
            return []


def _write_card(folder: Path, to: str, form: Format, model: Model, difference: float | None) -> None:
    """Write the card beside a model: its origin, the roles of its tokens and the files of the export."""
    network = model.backbone.anatomy.tower if model.network is None else model.network
    card = {
        "schema": SCHEMA,
        "to": to,
        "run": model.backbone.spec,
        "package": f"{form.package} {metadata.version(form.package)}",
        "weights_sha256": sha256_of_weights(network),
        "largest_difference": difference,
        **described(model.layout),
        "files": sorted(path.name for path in folder.iterdir()),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
