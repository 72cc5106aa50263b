"""Next steps after a scan, most useful first, with commands to copy between backticks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import zip_longest

from vitreg.records import ScanResult
from vitreg.specs import WEIGHTS

FEW = 100  # images; fewer can miss a mild effect (docs/scan.md)
TYPICAL = "timm:vit_small_patch14_reg4_dinov2.lvd142m"


def next_steps(result: ScanResult, *, named: bool = True) -> list[str]:
    """Return the verdict's advice and further steps for this model, most useful first.

    Args:
        result: the record of a scan.
        named: whether commands contain the model instead of the word SPEC.
    """
    verdict, named = result.verdict, named and ":" in result.model.spec
    spec, more = shlex.quote(result.model.spec) if named else "SPEC", ""
    if named and result.model.weights.endswith(WEIGHTS):
        # Flags stand last: `eval` wants its task and data before them.
        more = f" --weights {shlex.quote(result.model.weights)}"
    maps = f"Draw maps, with `--layer N` of any block: `vitreg maps {spec} photos/ --what attention,norm,pca{more}`."
    doctor = f"Check the weights and the layout of tokens, without images: `vitreg doctor {spec}{more}`."
    if verdict.kind == "none":
        few = result.images.seen < FEW and verdict.power is None and not verdict.undecided
        images = f"{result.images.seen} images are few: scan some hundreds of the kind you work with."
        return [*([images] if few else []), *verdict.advice, maps, doctor]
    first, last = verdict.first_layer, result.model.blocks - 1
    steps = []
    if first is not None and first > 0:
        steps.append(
            f"Take features from a block before the outliers appear, such as block {first - 1}: "
            f"`vitreg extract {spec} photos/ --patches {first - 1}{more}`. Earlier features know less of the content: "
            f"compare the two with `vitreg maps {spec} photos/ --layer {first - 1},{last}{more}`, then test them on your task."
        )
    if not result.model.tokens.get("registers"):
        steps.append(
            f"Compare with a model that has registers: `vitreg scan {TYPICAL} photos/ --out with-registers`, then "
            "`vitreg compare FOLDER with-registers --out compare.html`, FOLDER being that of this page. "
            "To train one: `vitreg train --help`, with `--model.registers 4`."
        )
    steps.append(
        f"Measure what the outliers still know: `vitreg eval {spec} tokens DATA{more}` classifies images by an outlier alone, "
        f"`vitreg eval {spec} controls DATA{more}` replaces them and shows what is lost."
    )
    return [*verdict.advice[:1], *steps, *verdict.advice[1:], doctor]


def shared_steps(scans: Sequence[tuple[str, ScanResult]]) -> list[str]:
    """Return next steps for several scans: the first steps of each in turn, common ones once."""
    named: dict[str, list[str]] = {}
    for choices in zip_longest(*(next_steps(result, named=False) for _, result in scans)):
        for (name, _), step in zip(scans, choices, strict=True):
            if step is not None:
                named.setdefault(step, []).append(name)
    return [step if len(names) == len(scans) else f"{', '.join(names)}: {step}" for step, names in named.items()]
