"""The verbs that look: scan, maps, doctor and demo. They parse, call, and say where the result is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.analysis.outliers import detector
from vitreg.cli.lists import Listed
from vitreg.cli.options import (
    AS_IT_IS,
    IMAGES_HELP,
    SPEC_HELP,
    Blocks,
    ModelOptions,
    at_least,
    check_model,
    check_place,
    listed,
    named_images,
    open_with,
    parse_blocks,
    parse_size,
)
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError, unknown
from vitreg.passes import ahead
from vitreg.quantities import percent
from vitreg.specs import PLANTED
from vitreg.verbs.maps.values import What, check_numbers, kinds_of, weights_of

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

    def check(self) -> None:
        """Refuse what no model is needed for."""
        parse_size(self.size)
        detector(self.detector)
        if self.fail_above is not None and not 0 <= self.fail_above <= 1:
            raise UserError(f"--fail-above is a share between 0 and 1, not {self.fail_above:g}.")
        for flag, value in (("limit", self.limit), ("batch-size", self.batch_size), ("workers", self.workers)):
            at_least(1, flag, value)
        at_least(0, "seed", self.seed)
        check_model(self.spec, self.weights, self.model)
        ahead.refuse_absent_inputs(named_images(self.images))
        ahead.refuse_other_scan(self.out)
        check_place(ahead.scan_outputs(self.out, self.images, self.weights))

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.scan.verb import ScanOptions, scan

        options = ScanOptions(
            size=parse_size(self.size), fit=self.fit, detector=self.detector, limit=self.limit, tokens=self.tokens,
            batch_size=self.batch_size, workers=self.workers, seed=self.seed,
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

    def check(self) -> None:
        """Refuse nothing beforehand: the verb needs no model."""

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.compare import compare

        open_with(compare(self.scans, out=self.out))
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
    what: Annotated[str, Listed("attention|heads|registers|pca|rgb|norm")] = "attention,registers,pca,rgb,norm"
    """Which maps, of attention, heads, registers, pca, rgb and norm."""
    weights: Annotated[str, Listed(r"none|.*\.(safetensors|pth|pt|bin|json)")] | None = None
    """A checkpoint; for several models one each, none where a model keeps its own."""
    layer: Blocks = "-1"
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

    def check(self) -> None:
        """Refuse what no model is needed for."""
        parse_size(self.size)
        parse_blocks("layer", self.layer, "all")
        at_least(1, "limit", self.limit)
        check_numbers(self.limit, self.mass)
        kinds, models = kinds_of(self._what()), listed(self.spec)
        files = weights_of(self._weights(), len(models))
        for spec, file in zip(models, files, strict=True):
            check_model(spec, file, self.model)
        ahead.refuse_absent_inputs(named_images(self.images))
        check_place(ahead.maps_outputs(self.out, kinds, self.images, files))

    def _what(self) -> list[What]:
        return cast("list[What]", listed(self.what))  # names are checked by `kinds_of`

    def _weights(self) -> list[str | None] | None:
        return None if self.weights is None else [None if file == "none" else file for file in listed(self.weights)]

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.maps.verb import maps

        result = maps(
            listed(self.spec),
            named_images(self.images),
            out=self.out,
            weights=self._weights(),
            what=self._what(),
            layer=parse_blocks("layer", self.layer, "all") or "all",
            size=parse_size(self.size),
            fit=self.fit,
            scale=self.scale,
            upsample=self.upsample,
            mass=self.mass,
            pca_per_image=self.pca_per_image,
            limit=self.limit,
            **vars(self.model),
        )
        for skipped in result.skipped:
            say(f"{skipped.name} could not be read: {skipped.reason}.")
        for note in result.notes:
            say(note)
        drawn = len(result.images) + len(result.skipped)
        if result.there is not None and drawn < result.there:
            say(f"Drew the first {drawn} of {result.there} images; --limit {result.there} draws all of them.")
        for path in result.paths[1:]:
            say(path)
        for path in result.paths[:1]:
            open_with(path)
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

    def check(self) -> None:
        """Refuse what no model is needed for."""
        check_model(self.spec, self.weights, self.model)

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

    def check(self) -> None:
        """Refuse what no model is needed for."""
        if self.kind not in PLANTED:
            raise unknown("planted kind", self.kind, PLANTED)
        check_place(*ahead.demo_outputs(self.out))

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.demo import demo

        demo(self.out, self.kind)
        open_with(self.out / "index.html")
        return Exit.DONE


def _print_scan(result: ScanResult, out: Path) -> None:
    from vitreg.verbs.scan.verb import describe

    images = result.images
    if images.interrupted:
        of = f" of {images.planned}" if images.planned else ""
        say(f"Stopped after {images.seen}{of} images; this is what they say.")
    if images.skipped:
        say(f"{len(images.skipped)} images could not be read (listed in result.json); scanned {images.seen}.")
    for note in result.model.notes:
        say(note)
    say(describe(result.verdict))
    for each in result.undrawn:
        say(each.sentence)
    if result.provenance.precision_choice is not None:
        say(result.provenance.precision_choice.sentence)
    open_with(out / "report.html")
