"""The verbs that measure what features are good for: eval, extract and discover."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

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
    named_images,
    open_with,
    parse_blocks,
    parse_size,
)
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.data.boxes.named import PUBLISHED
from vitreg.passes import ahead
from vitreg.verbs.discover.setting import Setting, Sweep, read_settings, refuse_blind_sweep
from vitreg.writing.files import missing


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure what a model's features are good for, beside controls that must be worse. `vitreg eval` lists the tasks.

    Example: vitreg eval timm:deit_tiny_patch16_224 knn imagenette2-320/

    Every setting of a task: vitreg eval SPEC TASK --help
    """


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Keep features of images on disk: safetensors shards, computed once, found again, finished where interrupted.

    Blocks are numbers such as -1 (the last) or 5,8,11; none leaves a kind out. Prints the folder the features are in.

    Example: vitreg extract timm:vit_small_patch14_reg4_dinov2.lvd142m photos/ --cls=-1 --patches 5,8,11 --out features

    Under torchrun, or started several times, processes share the work shard by shard.
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]
    out: Path = Path("vitreg-features")
    """Folder that may hold the features of many models and sets, each in a folder of its own."""
    cls: Blocks = "-1"
    """Blocks whose class token is kept."""
    mean: Blocks = "none"
    """Blocks whose mean patch token is kept."""
    registers: Blocks = "none"
    """Blocks whose registers are kept."""
    patches: Blocks = "none"
    """Blocks whose patch tokens are kept."""
    norms: Blocks = "none"
    """Blocks of whose patch tokens the norms before the final norm are kept."""
    final_norm: bool = True
    """Apply the model's final norm to the tokens of every block."""
    dtype: Literal["float32", "float16"] = "float32"
    """How values are stored."""
    mirrored: bool = False
    """Also keep all of it of the mirrored pictures."""
    table: bool = False
    """Also write cls and mean features as features.parquet."""
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = AS_IT_IS
    size: str | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Literal["pad", "crop", "resize"] = "resize"
    """What to do where a side is no multiple of the patch; the model's own size is left as it is."""
    limit: int | None = None
    """Use at most this many images, spread evenly."""
    batch_size: int | None = None
    """Images at once; chosen by token count and device if unset."""
    workers: int | None = None
    """Processes that decode."""

    def check(self) -> None:
        """Refuse what no model is needed for."""
        parse_size(self.size)
        for flag, value in (("limit", self.limit), ("batch-size", self.batch_size), ("workers", self.workers)):
            at_least(1, flag, value)
        ahead.refuse_no_features(self._blocks(), table=self.table)
        check_model(self.spec, self.weights, self.model)
        ahead.refuse_absent_inputs(named_images(self.images))
        check_place(ahead.extract_outputs(self.out))

    def _blocks(self) -> dict[str, tuple[int, ...]]:
        kinds = ("cls", "mean", "registers", "patches", "norms")
        return {kind: tuple(parse_blocks(kind, getattr(self, kind), "none") or ()) for kind in kinds}

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.features.extract import Wanted
        from vitreg.verbs.extract import describe, extract_features

        wanted = Wanted(**self._blocks(), final_norm=self.final_norm, dtype=self.dtype, mirrored=self.mirrored)
        store = extract_features(
            self.spec, named_images(self.images), out=self.out, wanted=wanted, table=self.table, weights=self.weights,
            size=parse_size(self.size), fit=self.fit, limit=self.limit, batch_size=self.batch_size, workers=self.workers,
            quiet=False, **vars(self.model),
        )  # fmt: skip
        if os.environ.get("RANK", "0") == "0":
            say(describe(store))
        return Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Discover:
    """Find an object in every image without labels (LOST, TokenCut, MaskCut), and measure how often it is one (CorLoc).

    Every image is seen at its own resolution. Writes result.json, boxes.json (COCO format) and pictures/ into --out. Exit
    code 0, 2 for a mistake, 130 after Ctrl-C (what was found is kept). The paper takes keys for DINOv2 and values for
    DeiT-III and OpenCLIP, and adds a bias to LOST's Gram matrix that it does not publish.

    Example: vitreg discover timm:vit_base_patch14_reg4_dinov2.lvd142m voc2012:VOCdevkit/VOC2012 --sweep

    Own images: vitreg discover SPEC images/ --boxes instances.json
    """

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    images: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="IMAGES...",
            help=f"{IMAGES_HELP}; or voc2007:ROOT, voc2012:ROOT[@LIST], coco20k:ROOT[@LIST] with their boxes",
            help_behavior_hint="(at least one)",
        ),
    ]
    boxes: Path | None = None
    """True boxes: a folder of VOC annotations (.xml) or a COCO instances file (.json)."""
    out: Path = Path("vitreg-discover")
    """Folder for the results."""
    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
    model: OmitArgPrefixes[ModelOptions] = AS_IT_IS
    method: str = "lost"
    """lost, tokencut or maskcut."""
    feature: Annotated[str, Listed("k|q|v|output")] | None = None
    """k, q, v (as their projection wrote them) or output of a block. Unset: k for lost; the cuts choose. With --sweep several, as k,v."""
    layer: Blocks | None = None
    """Block, such as 7. Unset: the last for lost; the cuts choose. With --sweep several, as 8,9,10,11."""
    normalize: Annotated[str, Listed(r"none|l2|center(\+l2)?")] | None = None
    """Of the features, image by image: none, l2, center or center+l2. Unset: center+l2 for lost; the cuts choose."""
    bias: Annotated[str, Listed(r"auto|[+-]?[\d.]+%?")] | None = None
    """Added to every entry of LOST's Gram matrix: auto (if unset), a number, or a share of its diagonal as --bias=-20%."""
    sweep: bool = False
    """Compare features, blocks, normalisations and biases in one pass; lost needs true boxes for it."""
    size: str | None = None
    """Short side in pixels, such as 480, or 384x512 (height x width, aspect not kept); the images' own size if unset."""
    hard: bool = True
    """Count objects that VOC marks difficult or truncated."""
    limit: int | None = None
    """Look at at most this many images."""
    pictures: int = 30
    """How many images are shown with their boxes: the first ones."""
    steps: int = 6
    """How many images are shown with the steps of the method, as in the paper's Fig. 13: the first ones."""

    def check(self) -> None:
        """Refuse what no model is needed for."""
        parse_size(self.size)
        at_least(1, "limit", self.limit)
        at_least(0, "pictures", self.pictures)
        at_least(0, "steps", self.steps)
        setting, sweep = self._settings()
        check_model(self.spec, self.weights, self.model)
        if self.images[:1] and self.images[0].partition(":")[0] in PUBLISHED:
            return  # a set of several files, which the verb opens before it loads a model
        refuse_blind_sweep(setting, sweep, boxes=self.boxes is not None)
        ahead.refuse_absent_inputs(named_images(self.images))
        if self.boxes is not None and not self.boxes.expanduser().exists():
            raise missing(self.boxes, "file or folder of boxes")
        check_place(ahead.discover_outputs(self.out, self.images, self.boxes, self.weights))

    def _settings(self) -> tuple[Setting, Sweep | None]:
        return read_settings(
            self.method,
            feature=self.feature,
            layer=self.layer,
            normalize=self.normalize,
            bias=self.bias,
            sweep=self.sweep,
        )

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.discover.verb import DiscoverOptions, describe, discover

        setting, sweep = self._settings()
        size = parse_size(self.size)
        short = size is not None and self.size is not None and "x" not in self.size
        options = DiscoverOptions(
            setting=setting, sweep=sweep, size=size[0] if short and size else size, hard=self.hard,
            limit=self.limit, pictures=self.pictures, steps=self.steps,
        )  # fmt: skip
        places = [self.out]
        result = discover(
            self.spec, named_images(self.images), boxes=self.boxes, out=self.out, weights=self.weights,
            options=options, quiet=False, written=places.append, **vars(self.model),
        )  # fmt: skip
        if os.environ.get("RANK", "0") == "0":  # of several processes under torchrun one speaks
            say(describe(result))
            pictures = sorted((places[-1] / "pictures").glob("boxes*.png")) or sorted(
                (places[-1] / "pictures").glob("*.png")
            )
            open_with(pictures[0] if pictures else places[-1] / "boxes.json")
        return Exit.INTERRUPTED if result.images.interrupted else Exit.DONE
