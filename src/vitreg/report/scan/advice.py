"""Next steps after a scan, most useful first, with commands to copy between backticks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import zip_longest

from vitreg.quantities import count
from vitreg.records import ScanResult
from vitreg.report.scan.charts.values import mean
from vitreg.specs import WEIGHTS, images_for

LITTLE = 0.2  # times the length of the values of other patches, as of a no-op sink
FEW = 100  # images; fewer can miss a mild effect (docs/verbs/scan.md)
TYPICAL = "timm:vit_small_patch14_reg4_dinov2.lvd142m"


def next_steps(result: ScanResult, *, named: bool = True) -> list[str]:
    """Return the verdict's advice and further steps for this model, most useful first.

    Args:
        result: the record of a scan.
        named: whether commands contain the model, and the images it was made for, instead of the word SPEC and photos/.
    """
    images = images_for(result.model.spec) if named else "photos/"
    return [step.replace("photos/", images) for step in _steps(result, named)]


def _steps(result: ScanResult, named: bool) -> list[str]:
    verdict = result.verdict
    spec, more = (
        _model(result) if named else ("SPEC", "")
    )  # flags stand last: `eval` wants its task and data before them
    maps = f"Draw maps, with `--layer N` of any block: `vitreg maps {spec} photos/ --what attention,norm,pca{more}`."
    doctor = f"Check the weights and the layout of tokens, without images: `vitreg doctor {spec}{more}`."
    if verdict.kind == "none":
        few = result.images.seen < FEW and verdict.power is None and not verdict.undecided
        images = (
            f"{count(result.images.seen, 'image is', 'images are')} few: scan some hundreds of the kind you work with."
        )
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
    first_repair, *repairs = repairs_of(result, spec, more)
    return [*verdict.advice[:1], first_repair, *steps, *repairs, *verdict.advice[1:], doctor]


def repairs_of(result: ScanResult, spec: str, more: str = "") -> list[str]:
    """Return the repairs that a verdict of artifacts makes plausible, with their commands, by what docs/verbs/repairs.md measured.

    Most of it was measured on planted models, so each step says so, and the last one compares repairs on the user's images.
    """
    verdict = result.verdict
    if verdict.kind == "position-locked":
        names = "position-rows,denoise"
        steps = [
            f"Repair the position table, without training: `vitreg fix position-rows {spec} photos/{more}`. On planted models no outlier "
            "was left and all tokens came back; a model whose rows do not stand out is told so.",
            f"If no row stands out, average shifted views: `vitreg fix denoise {spec} photos/{more}`. It repairs the output only, at ten "
            "forwards for each image.",
        ]
    elif verdict.first_layer == result.model.blocks - 1:
        names = "substitute,test-time"
        steps = [
            "No block reads these outliers, so mending the output is enough, though it makes up what was lost: "
            f"`vitreg fix substitute {spec} photos/ --where output{more}`.",
            _test_time(spec, more),
        ]
    else:
        names = "test-time,attention-bias,substitute"
        steps = [
            _test_time(spec, more),
            "Where no token can be added, or the sequence must keep its length, give attention an extra key and value: "
            f"`vitreg fix attention-bias {spec} photos/{more}`.",
        ]
    auto = "Or let vitreg choose the one that leaves the fewest outliers within a limit of damage, or none: "
    auto += f"`vitreg fix auto {spec} photos/{more}`."
    compare = "Compare repairs on the same images, what they gain and what they damage: "
    compare += f"`vitreg repairs photos/ -m {spec} --methods none,{names}{more}`."
    return [*steps, *_not_worth_it(result), auto, compare]


def _test_time(spec: str, more: str) -> str:
    return (
        "Let the neurons that write outliers write to an added token, without training: "
        f"`vitreg fix test-time {spec} photos/{more}`. On planted models no outlier was left and the other tokens hardly moved; "
        "in a trained model the cause may be another, and the command says what is left."
    )


def _not_worth_it(result: ScanResult) -> list[str]:
    """What the measurements speak against."""
    said = []
    if result.verdict.kind != "position-locked" and result.layers and result.layers[-1].threshold is None:
        said.append(
            "Do not clip norms here: where the last blocks take outliers out again, clipping ruined planted models' output."
        )
    spaces = result.head_sinks.value_space if result.head_sinks else []
    if spaces and all(mean(each.length) <= LITTLE for each in spaces):
        said.append(
            "Hiding outliers from attention gains little: their values are short in every block, so attention takes next to nothing from "
            "them."
        )
    return said


def shared_steps(scans: Sequence[tuple[str, ScanResult]]) -> list[str]:
    """Return next steps for several scans: the first steps of each in turn, common ones once.

    A common step has the command for the first of its scans, and the models of the others behind it.
    """
    common: dict[str, list[tuple[str, str, str]]] = {}  # step without a model -> (name, model, step) of its scans
    plain = [next_steps(result, named=False) for _, result in scans]
    for place, choices in enumerate(zip_longest(*plain)):
        for (name, result), step in zip(scans, choices, strict=True):
            if step is not None:
                common.setdefault(step, []).append((name, "".join(_model(result)), next_steps(result)[place]))
    said = []
    for step, of in common.items():
        text = of[0][2]
        others = {name: model for name, model, own in of[1:] if own not in (step, text)}
        if others:
            text += f" For {', '.join(f'{name}: `{model}`' for name, model in others.items())}."
        said.append(text if len(of) == len(scans) else f"{', '.join(name for name, _, _ in of)}: {text}")
    return said


def _model(result: ScanResult) -> tuple[str, str]:
    """The model and the flag for its weights, as commands name them; the word SPEC for one that has no name."""
    if ":" not in result.model.spec or result.model.spec.startswith("module:"):
        return "SPEC", ""
    weights = result.model.weights
    more = f" --weights {shlex.quote(weights)}" if weights.endswith(WEIGHTS) else ""
    return shlex.quote(result.model.spec), more
