"""`vitreg export`: a trained run as a model of another library, loaded back there and compared before it is kept.

`timm.py`, `hf.py` and `onnx.py` write each format. Common to all: positions are folded into the registers, weights
needed for training only are left out, and no file is half-written or overwritten.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vitreg.backbones.loading.foreign_runs import base_of
from vitreg.backbones.loading.sources import from_run
from vitreg.backbones.weights.into_module import load_weights, sha256_of_weights
from vitreg.config import read
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.ahead import CARD, SUFFIXES, export_outputs
from vitreg.passes.keywords import Size
from vitreg.passes.options import takes
from vitreg.recipes.known import kinds
from vitreg.verbs.export.hf import answers_of_hf, write_hf
from vitreg.verbs.export.onnx import SCHEMA, answers_of_onnx, at_size, write_onnx
from vitreg.verbs.export.options import ExportOptions
from vitreg.verbs.export.timm import answers_of_timm, write_timm
from vitreg.writing.files import results_folder, run_folder

TOLERANCE = 1e-4

Answers = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Format:
    """A format to export to.

    Args:
        package: the package that loads it.
        write: writes a network; returns sentences for the user.
        answers: loads the export, and returns its tokens, pooled output and logits for images, as far as it has them;
            None if only its form could be checked.
    """

    package: str
    write: Callable[[VisionTransformer, Preprocess, Path], list[str]]
    answers: Callable[[VisionTransformer, Path, Tensor], Answers | None]


@dataclass(frozen=True, slots=True)
class Exported:
    """The path of an export, and its largest difference from the run on a random image (None: could not be run)."""

    path: Path
    difference: float | None
    notes: tuple[str, ...]


@takes()
def export(run: str | Path, to: str, out: str | Path, *, size: Size | None = None) -> Exported:
    """Write a run as a model of another library, and compare it with the run.

    Args:
        run: folder of the run.
        to: "timm" or "hf", a folder; "safetensors" or "onnx", a file.
        out: the folder or file. Only an earlier export there is replaced.
        size: image size of an ONNX model in pixels, one number or (height, width); the run's own if None.
    Raises:
        UserError: for a run that cannot be read or that the format cannot express, a missing package, an `out` in use,
            or an export whose outputs differ from the run's.
    """
    size = ExportOptions(to=cast("Any", to), size=size).pixels
    form, out, file = FORMATS[to], Path(out), bool(SUFFIXES[to])
    source = run_folder(run)
    base = base_of(f"run:{source}")
    if base is not None:
        raise UserError(
            f"{source} trained {base['base']}, and export writes vitreg's own ViT; in Python "
            f"vitreg.load('run:{source}').module is the trained model."
        )
    built = from_run(str(source))
    outputs = export_outputs(out, to)
    outputs.check()
    assert isinstance(built.module, VisionTransformer)
    assert isinstance(built.preprocess, Preprocess)  # our own network takes photographs
    network, preprocess = published(built.module), built.preprocess
    if size is not None:
        network, preprocess = at_size(network, size), preprocess.with_size(size)
    images = torch.randn(2, 3, *network.image_size, generator=torch.Generator().manual_seed(0))
    with results_folder(outputs.folder), outputs.stage() as stage:
        made = stage.path / out.name if file else stage.path
        try:
            notes = form.write(network, preprocess, made)
            difference = _difference(answers(network, images), form.answers(network, made, images), out, form)
            if not file:
                _write_card(made, to, form, run, network, difference)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
        except SafetensorError as error:  # raised on a full disk
            raise UserError(f"cannot write {out}: {error}.") from error
        outputs.publish(lambda place: None, stage=stage)
    return Exported(out, difference, (*built.notes, *_left_out(source), *notes))


def summary(exported: Exported, to: str) -> str:
    """Return a sentence on what was written, and how it was checked."""
    package = FORMATS[to].package
    if exported.difference is None:
        return f"Wrote {exported.path}; it is well formed, but was not run."
    return (
        f"Wrote {exported.path}. Loaded back with {package} {metadata.version(package)}, the largest difference on a "
        f"random image is {exported.difference:.1e}."
    )


def published(network: VisionTransformer) -> VisionTransformer:
    """Return a copy for inference: without mask token, and with the registers' positions added to the registers."""
    plain = copy.deepcopy(network).float().eval().requires_grad_(False)
    if plain.reg_token is not None and plain.reg_pos is not None:
        plain.reg_token = nn.Parameter(plain.reg_token + plain.reg_pos, requires_grad=False)
    plain.reg_pos = plain.mask_token = None
    return plain


@torch.inference_mode()
def answers(network: VisionTransformer, images: Tensor) -> Answers:
    """Return every output that an export may have, for some images."""
    tokens = network.forward_features(images)
    found = {"tokens": tokens, "pooled": network.pooled(tokens)}
    return found | {"logits": network.head(found["pooled"])} if isinstance(network.head, nn.Linear) else found


def _write_safetensors(network: VisionTransformer, preprocess: Preprocess, place: Path) -> list[str]:
    state = {name: value.contiguous() for name, value in network.published_state().items()}
    save_file(state, place, metadata={"format": "pt", "schema": SCHEMA})
    return []


def _answers_of_safetensors(network: VisionTransformer, place: Path, images: Tensor) -> Answers:
    other = copy.deepcopy(network)
    other.init_weights()
    load_weights(other, place, grid=other.grid, strict=True)
    return answers(other, images)


FORMATS = {
    "timm": Format("timm", write_timm, answers_of_timm),
    "hf": Format("transformers", write_hf, answers_of_hf),
    "safetensors": Format("safetensors", _write_safetensors, _answers_of_safetensors),
    "onnx": Format("onnxruntime", write_onnx, answers_of_onnx),
}


def _difference(ours: Answers, theirs: Answers | None, out: Path, form: Format) -> float | None:
    """Return the largest difference among outputs that both have.

    Raises:
        UserError: if it is too large.
    """
    if theirs is None:
        return None
    largest = max(float((theirs[name] - ours[name]).abs().max()) for name in theirs)
    if not largest <= TOLERANCE:
        raise UserError(
            f"loaded back with {form.package} {metadata.version(form.package)}, the model answers otherwise than the run "
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


def _write_card(
    folder: Path, to: str, form: Format, run: str | Path, network: nn.Module, difference: float | None
) -> None:
    """Write the card beside a model: its origin and the files of the export."""
    card = {
        "schema": SCHEMA,
        "to": to,
        "run": str(run),
        "package": f"{form.package} {metadata.version(form.package)}",
        "weights_sha256": sha256_of_weights(network),
        "largest_difference": difference,
        "files": sorted(path.name for path in folder.iterdir()),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
