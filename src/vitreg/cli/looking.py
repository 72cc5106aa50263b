"""The verbs that look: scan, maps, doctor and demo. They parse, call, and say where the result is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.options import (
    AS_IT_IS,
    IMAGES_HELP,
    SPEC_HELP,
    ModelOptions,
    named_images,
    parse_layers,
    parse_size,
    positive,
)
from vitreg.errors import UserError
from vitreg.exits import Exit
from vitreg.quantities import percent
from vitreg.terminal import say

if TYPE_CHECKING:
    from vitreg.records import ScanResult


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Look for artifacts in the feature maps of any Vision Transformer.

    One pass over the images, constant memory. Writes result.json, report.html and figures/ into --out and prints the
    verdict. Exit code 0, or 3 with --fail-above, 2 for a mistake, 130 after Ctrl-C (what was scanned is kept).

    Example: vitreg scan timm:vit_small_patch14_reg4_dinov2.lvd142m photos/ --out report

    Under torchrun every process takes its share: torchrun --nproc-per-node 2 -m vitreg scan ...
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]
    out: Path = Path("vitreg-scan")
    """Folder for the results."""
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = AS_IT_IS
    size: str | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Literal["pad", "crop", "resize"] = "resize"
    """What to do where a side is no multiple of the patch; the model's own size is left as it is."""
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

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.scan import ScanOptions, scan

        if self.fail_above is not None and not 0 <= self.fail_above <= 1:
            raise UserError(f"--fail-above is a share between 0 and 1, not {self.fail_above:g}.")
        options = ScanOptions(
            size=parse_size(self.size), fit=self.fit, detector=self.detector, limit=positive("limit", self.limit), tokens=self.tokens,
            batch_size=positive("batch-size", self.batch_size), workers=positive("workers", self.workers), seed=self.seed,
        )  # fmt: skip
        places = [self.out]
        result = scan(
            self.spec,
            named_images(self.images),
            out=self.out,
            weights=self.weights,
            options=options,
            quiet=False,
            written=places.append,
            **vars(self.model),
        )
        if os.environ.get("RANK", "0") == "0":  # of several processes under torchrun one speaks
            _print_scan(result, places[-1])
        if result.images.interrupted:
            return Exit.INTERRUPTED
        if self.fail_above is not None and result.verdict.outlier_fraction > self.fail_above:
            say(
                f"vitreg: {percent(result.verdict.outlier_fraction)} of the patch tokens are outliers, "
                f"over --fail-above {self.fail_above:g}.",
                error=True,
            )
            return Exit.OVER_BUDGET
        return Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put scans side by side on one page: verdicts, norms along the depth on a shared scale, links to the reports.

    Example: vitreg compare scans/reg0 scans/reg4 --out scans/compare.html
    """

    scans: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="DIR...", help="folders that vitreg scan wrote, 2 to 8", help_behavior_hint=""),
    ]
    out: Path = Path("vitreg-compare.html")
    """The page."""

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.compare import compare

        say(compare(self.scans, out=self.out))
        return Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Draw attention, PCA and norm maps as contact sheets, like the paper's Figs. 1, 2, 9, 14, 15 and 16.

    Several models side by side share their colour scales: give specs separated by commas.

    Example: vitreg maps timm:deit3_base_patch16_224,timm:vit_base_patch14_reg4_dinov2 photos/ --what attention,norm
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC[,SPEC...]", help=SPEC_HELP)]
    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]
    out: Path = Path("vitreg-maps")
    """Folder for the sheets."""
    model: OmitArgPrefixes[ModelOptions] = AS_IT_IS
    what: str = "attention,registers,pca,rgb,norm"
    """Which maps, separated by commas: attention, heads, registers, pca, rgb, norm."""
    weights: str | None = None
    """A checkpoint; for several models one each, separated by commas, none where a model keeps its own."""
    layer: str = "-1"
    """Block whose output is drawn, such as 7; -1 is the last; several as 5,8,11; or all."""
    size: str | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Literal["pad", "crop", "resize"] = "resize"
    """What to do where a side is no multiple of the patch; the model's own size is left as it is."""
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

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.maps import maps

        result = maps(
            _listed(self.spec),
            named_images(self.images),
            out=self.out,
            weights=None if self.weights is None else [None if w == "none" else w for w in _listed(self.weights)],
            what=_listed(self.what),  # type: ignore[arg-type]  # names are checked there
            layer=parse_layers(self.layer),
            size=parse_size(self.size),
            fit=self.fit,
            scale=self.scale,
            upsample=self.upsample,
            mass=self.mass,
            pca_per_image=self.pca_per_image,
            limit=positive("limit", self.limit),
            **vars(self.model),
        )
        for skipped in result.skipped:
            say(f"{skipped.name} could not be read: {skipped.reason}.")
        for note in result.notes:
            say(note)
        for path in result.paths:
            say(path)
        return Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check a model without images: token layout, registers, position table, weight decay, slicing.

    Exit code 0, or 5 if a finding is a problem (warnings and notes do not count), 2 for a mistake.

    Example: vitreg doctor timm:vit_medium_patch16_reg4_gap_256
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = AS_IT_IS
    json: bool = False
    """Print the findings as JSON (schema vitreg.doctor/1) for a program to read."""

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.backbones import load
        from vitreg.verbs.doctor import doctor, record, render

        backbone = load(self.spec, weights=self.weights, **vars(self.model))
        result = record(backbone, doctor(backbone))
        if self.json:
            say(dumps(result.model_dump(mode="json", by_alias=True), indent=1))  # ASCII: names cannot do anything
        else:
            say(render(result.findings))
        return Exit.PROBLEM_FOUND if result.problem else Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Scan a ViT with planted artifacts and its clean twin on real photographs. Offline, under two minutes."""

    out: Path = Path("demo-report")
    """Folder for the two reports."""
    kind: str = "high-norm"
    """Which artifact is planted: high-norm, low-norm, position-locked, last-block or hidden."""

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.demo import demo

        demo(self.out, self.kind)
        return Exit.DONE


def _listed(words: str) -> list[str]:
    """Split at commas."""
    return [word.strip() for word in words.split(",") if word.strip()]


def _print_scan(result: ScanResult, out: Path) -> None:
    from vitreg.verbs.scan import describe

    images = result.images
    if images.interrupted:
        of = f" of {images.planned}" if images.planned else ""
        say(f"Stopped after {images.seen}{of} images; this is what they say.")
    if images.skipped:
        say(f"{len(images.skipped)} images could not be read (listed in result.json); scanned {images.seen}.")
    if result.provenance.precision_choice is not None:
        say(result.provenance.precision_choice.sentence)
    for note in result.model.notes:
        say(note)
    say(describe(result.verdict))
    for each in result.undrawn:
        say(each.sentence)
    say(out / "report.html")
