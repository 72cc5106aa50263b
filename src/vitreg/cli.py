"""The verbs: parse, call, say where the result is. No logic lives here; every default is the called function's."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg import __version__
from vitreg.errors import UserError

if TYPE_CHECKING:
    from vitreg.records import ScanResult

EXIT_OVER_BUDGET, EXIT_INTERRUPTED = 3, 130

SPEC_HELP = "the model: timm:NAME, hf:REPO_OR_DIR, openclip:ARCH[@TAG], hub:OWNER/REPO:ENTRY, torchvision:NAME, run:DIR or planted:KIND"
IMAGES_HELP = "files, folders, globs, zip or tar archives, WebDataset shards, or .txt lists of paths"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How to load the model and run it."""

    random: bool = False
    """Use untrained weights instead of fetching pretrained ones."""
    strict: bool = False
    """Refuse a checkpoint whose position table would have to be resampled."""
    allow_partial: bool = False
    """Accept a checkpoint with missing or unexpected keys."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; the best there is if unset."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where the hardware multiplies it natively, else fp32. Statistics are fp32 always."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Look for artifacts in the feature maps of any Vision Transformer.

    One pass over the images, constant memory. Writes result.json, report.html and figures/ into --out and prints the
    verdict. Exit code 0, or 3 with --fail-above, 2 for a mistake, 130 after Ctrl-C (what was scanned is kept).

    Example: vitreg scan timm:vit_small_patch14_reg4_dinov2.lvd142m photos/ --out report
    Under torchrun every process takes its share: torchrun --nproc-per-node 2 -m vitreg scan ...
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP)]
    out: Path = Path("vitreg-scan")
    """Folder for the results."""
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = ModelOptions()
    size: str | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Literal["pad", "crop", "resize"] = "resize"
    """What to do where a side is no multiple of the patch."""
    detector: str = "mixture"
    """mixture, mad[:k], ratio[:factor] or absolute[:cutoff]."""
    fail_above: float | None = None
    """Exit with code 3 if more than this share of the patch tokens are outliers."""
    tokens: bool = False
    """Also write tokens.parquet, a row for every token of every layer."""
    limit: int | None = None
    """Scan at most this many images."""
    batch_size: int | None = None
    """Images at once; chosen by token count and device if unset."""
    workers: int | None = None
    """Decoding threads."""
    seed: int = 0
    """Of the bootstrap over images."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Draw attention, PCA and norm maps as contact sheets, like the paper's Figs. 1, 2, 9, 14, 15 and 16.

    Several models side by side share their colour scales: give specs separated by commas.

    Example: vitreg maps timm:deit3_base_patch16_224,timm:vit_base_patch14_reg4_dinov2 photos/ --what attention norm
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC[,SPEC...]", help=SPEC_HELP)]
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP)]
    out: Path = Path("vitreg-maps")
    """Folder for the sheets."""
    model: OmitArgPrefixes[ModelOptions] = ModelOptions()
    what: tuple[Literal["attention", "heads", "registers", "pca", "rgb", "norm"], ...] = (
        "attention",
        "registers",
        "pca",
        "rgb",
        "norm",
    )
    """Which maps."""
    weights: tuple[str, ...] = ()
    """A checkpoint for each model, in their order; "none" leaves a model its own."""
    layer: str = "-1"
    """Block whose output is drawn, such as 7; -1 is the last; several as 5,8,11; or all."""
    size: str | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Literal["pad", "crop", "resize"] = "resize"
    """What to do where a side is no multiple of the patch."""
    scale: Literal["shared", "map"] = "shared"
    """One colour scale for a whole sheet, or one for every map."""
    upsample: Literal["nearest", "bilinear"] = "nearest"
    """How patches are enlarged."""
    mass: float | None = None
    """Show of each attention map only the strongest patches that hold this share, such as 0.6."""
    pca_per_image: bool = False
    """Fit principal components to every image alone."""
    limit: int = 8
    """Draw at most this many images."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check a model without images: token layout, registers, position table, weight decay, slicing.

    Example: vitreg doctor timm:vit_medium_patch16_reg4_gap_256
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = ModelOptions()


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Scan a ViT with planted artifacts and its clean twin on real photographs. Offline, under two minutes."""

    out: Path = Path("demo-report")
    """Folder for the two reports."""
    kind: str = "high-norm"
    """Which artifact is planted: high-norm, low-norm, position-locked, last-block or hidden."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ViT with registers: DeiT-III, CLIP, DINOv2, DINO or MAE. `vitreg train` alone lists the presets.

    Example: vitreg train deit3-imagenette-cpu --data.root imagenette-128 --model.registers 4 --out runs/deit3-reg4
    Every setting: vitreg train PRESET --help
    """


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Draw what training runs wrote down, side by side: loss, evaluations, and when artifacts appeared (Fig. 4b).

    Writes report.html, curves.png and curves.json. Works while a run trains, too.

    Example: vitreg curves runs/deit3-reg0 runs/deit3-reg4 --out curves
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN...", help="folders of training runs")]
    out: Path | None = None
    """Folder for the results; that of the run if it is one, vitreg-curves if there are several."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained run as a model of timm, transformers or ONNX, loaded back there and compared before it is kept.

    Example: vitreg export runs/deit3-reg4 --to timm --out deit3-reg4-timm
    """

    run: Annotated[Positional[Path], arg(metavar="RUN", help="folder of the run")]
    to: Literal["timm", "hf", "safetensors", "onnx"]
    """timm: for timm.create_model("local-dir:PATH", pretrained=True); hf: for from_pretrained; or one file."""
    out: Path
    """Folder (timm, hf) or file (safetensors, onnx). An earlier export there is replaced, anything else is not."""
    size: str | None = None
    """Image size of an ONNX model, 518 or 384x512 (height x width); the run's own if unset."""


@dataclass(frozen=True)
class Version:
    """Print the version."""


VERBS = {
    "scan": Scan,
    "maps": Maps,
    "doctor": Doctor,
    "demo": Demo,
    "train": Train,
    "curves": Curves,
    "export": Export,
    "version": Version,
}


def run(argv: list[str]) -> int:
    """Parse the command line and run its verb. Returns the exit code."""
    if argv in (["--version"], ["version"]):
        print(f"vitreg {__version__}")
        return 0
    if argv[:1] == ["train"]:  # its flags are the fields of the run's configuration
        from vitreg.verbs.train_command import run_train

        return run_train(argv[1:])
    verb = tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="vitreg",
        description="See and measure feature artifacts of Vision Transformers.",
        args=argv or ["--help"],
    )
    handlers = {Scan: _scan, Maps: _maps, Doctor: _doctor, Demo: _demo, Curves: _curves, Export: _export}
    return handlers[type(verb)](verb)


def _scan(verb: Scan) -> int:
    from vitreg.verbs.scan import ScanOptions, scan

    if verb.fail_above is not None and not 0 <= verb.fail_above <= 1:
        raise UserError(f"--fail-above is a share between 0 and 1, not {verb.fail_above:g}.")
    options = ScanOptions(
        size=parse_size(verb.size), fit=verb.fit, detector=verb.detector, limit=_positive("limit", verb.limit), tokens=verb.tokens,
        batch_size=_positive("batch-size", verb.batch_size), workers=_positive("workers", verb.workers), seed=verb.seed,
    )  # fmt: skip
    result = scan(
        verb.spec,
        _images(verb.images),
        out=verb.out,
        weights=verb.weights,
        options=options,
        quiet=False,
        **vars(verb.model),
    )
    if os.environ.get("RANK", "0") == "0":  # of several processes under torchrun one speaks
        _print_scan(result, verb.out)
    if result.images.interrupted:
        return EXIT_INTERRUPTED
    if verb.fail_above is not None and result.verdict.outlier_fraction > verb.fail_above:
        print(
            f"vitreg: {result.verdict.outlier_fraction:.2%} of the patch tokens are outliers, over --fail-above {verb.fail_above:g}.",
            file=sys.stderr,
        )
        return EXIT_OVER_BUDGET
    return 0


def _print_scan(result: ScanResult, out: Path) -> None:
    images, verdict = result.images, result.verdict
    if images.interrupted:
        of = f" of {images.planned}" if images.planned else ""
        print(f"Stopped after {images.seen}{of} images; this is what they say.")
    if images.skipped:
        print(f"{len(images.skipped)} images could not be read (listed in result.json); scanned {images.seen}.")
    for note in result.model.notes:
        print(note)
    sure = "" if verdict.confidence is None else f", {verdict.confidence:.0%} of resamples agree"
    print(f"{verdict.sentence}\nVerdict: {verdict.kind} ({verdict.strength}{sure}). {verdict.reason}")
    print(out / "report.html")


def _maps(verb: Maps) -> int:
    from vitreg.verbs.maps import maps

    result = maps(
        [s.strip() for s in verb.spec.split(",") if s.strip()],
        _images(verb.images),
        out=verb.out,
        weights=[None if w == "none" else w for w in verb.weights] or None,
        what=verb.what,
        layer=parse_layers(verb.layer),
        size=parse_size(verb.size),
        fit=verb.fit,
        scale=verb.scale,
        upsample=verb.upsample,
        mass=verb.mass,
        pca_per_image=verb.pca_per_image,
        limit=_positive("limit", verb.limit),
        **vars(verb.model),
    )
    for skipped in result.skipped:
        print(f"{skipped.name} could not be read: {skipped.reason}.")
    for note in result.notes:
        print(note)
    for path in result.paths:
        print(path)
    return 0


def _doctor(verb: Doctor) -> int:
    from vitreg.backbones import load
    from vitreg.verbs.doctor import doctor, render

    print(render(doctor(load(verb.spec, weights=verb.weights, **vars(verb.model)))))
    return 0


def _demo(verb: Demo) -> int:
    from vitreg.verbs.demo import demo

    demo(verb.out, verb.kind)
    return 0


def _export(verb: Export) -> int:
    from vitreg.verbs.export import describe, export

    result = export(verb.run, verb.to, verb.out, size=parse_size(verb.size))
    for note in result.notes:
        print(note)
    print(describe(result, verb.to))
    return 0


def _curves(verb: Curves) -> int:
    from vitreg.verbs.curves import curves

    if not verb.runs:
        raise UserError("no runs named; give their folders, for example: vitreg curves runs/reg0 runs/reg4")
    out = verb.out or Path(verb.runs[0].removeprefix("run:") if len(verb.runs) == 1 else "vitreg-curves")
    for run in curves(verb.runs, out=out).runs:
        print(f"{run.name}: {run.watched.sentence if run.watched else 'The norms were not watched.'}")
    print(out / "report.html")
    return 0


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read "518" or "384x512" (height x width).

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or not 0 < int(match[1]) <= 8192 or not 0 < int(match[2] or match[1]) <= 8192:
        raise UserError(f"--size {text} is no image size; give 518 or 384x512 (height x width).")
    return int(match[1]), int(match[2] or match[1])


def parse_layers(text: str) -> list[int] | Literal["all"]:
    """Read "all", "-1" or "5,8,11".

    Raises:
        UserError: for anything else.
    """
    if text == "all":
        return "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--layer {text} names no block; give a number such as 7, several as 5,8,11, or all.") from None


def _positive(flag: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UserError(f"--{flag} must be at least 1, not {value}.")
    return value


def _images(images: tuple[str, ...]) -> list[str]:
    if not images:
        raise UserError("no images named; give files, a folder or an archive, for example: vitreg scan SPEC photos/")
    return list(images)
