"""What a reader of a scan can do next, with commands that can be copied: beyond the advice of the verdict itself."""

from __future__ import annotations

import shlex

from vitreg.records import ScanResult

FEW = 100  # images; fewer can miss a mild effect (docs/scan.md)
TYPICAL = "timm:vit_small_patch14_reg4_dinov2.lvd142m"


def next_steps(result: ScanResult) -> list[str]:
    """Further choices for this model, the most useful first; commands stand between backticks."""
    spec, verdict = shlex.quote(result.model.spec) if ":" in result.model.spec else "SPEC", result.verdict
    more = ""  # flags stand last: `eval` wants its task and data before them
    if result.model.weights.endswith((".safetensors", ".pth", ".pt", ".bin")):
        more = f" --weights {shlex.quote(result.model.weights)}"
    last = result.model.blocks - 1
    steps = []
    if verdict.kind == "none":
        if result.images.seen < FEW:
            steps.append(f"{result.images.seen} images are few: scan some hundreds of the kind you work with.")
        steps.append(
            f"See the maps for yourself: `vitreg maps {spec} photos/ --what attention,norm,pca{more}` draws them for any block."
        )
        steps.append("Check the weights and the layout of tokens, without images: " + f"`vitreg doctor {spec}{more}`.")
        return steps
    first = verdict.first_layer
    if first is not None and first > 0:
        before = first - 1
        steps.append(
            f"Take features from a block before the outliers appear, such as block {before}: "
            f"`vitreg extract {spec} photos/ --patches {before}{more}`. "
            "Earlier features know less of the content, so test them on your task."
        )
        steps.append(
            f"Look at that block beside the last one: `vitreg maps {spec} photos/ --layer {before},{last}{more}`."
        )
    steps.append(
        f"Measure what the outliers still know: `vitreg eval {spec} tokens DATA{more}` classifies images by an outlier alone, "
        f"`vitreg eval {spec} controls DATA{more}` replaces them and shows what is lost."
    )
    if not result.model.tokens.get("registers"):
        steps.append(
            f"Compare with a model that has registers: `vitreg scan {TYPICAL} photos/ --out with-registers`, then "
            "`vitreg compare FOLDER with-registers --out compare.html`, FOLDER being that of this page."
        )
        steps.append(
            "Train one yourself: `vitreg train --help` lists the recipes; `--model.registers 4` adds registers."
        )
    steps.append(f"Check the position table and the layout of tokens, without images: `vitreg doctor {spec}{more}`.")
    return steps
