"""The acts of the demo: a pair of models each, scanned on the same images, with the maps of two of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitreg.backbones import Backbone, load
from vitreg.console.terminal import say
from vitreg.machine.runtime import processes
from vitreg.passes.batches import batches_of
from vitreg.passes.given import Images
from vitreg.passes.portrait import portrait_from_record
from vitreg.records import Example, ScanResult
from vitreg.verbs.scan.verb import scan, summary

FEW, SHOWN = 4, 2  # the images with most outliers are shown side by side


@dataclass(frozen=True, slots=True)
class Role:
    """A model of an act.

    Args:
        name: of its folder, and of its result.
        title: on the page.
        said: on the terminal.
    """

    name: str
    spec: str
    title: str
    said: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models, the one with artifacts first, and what they see.

    Args:
        note: where the models come from.
        images: those that are scanned.
        shown: a few of them, among which those to show are chosen.
        names: what these are called.
    """

    name: str
    title: str
    note: str
    roles: tuple[Role, Role]
    images: Images
    shown: Images
    names: tuple[str, ...]

    @property
    def comparison(self) -> str:
        """The file of the page that compares them."""
        return f"{self.name}.html"


NATURAL = (
    "No natural pair comes with vitreg: none of the small models that were trained here on photographs has grown artifacts. Scan a "
    "large model that has some, such as `vitreg scan timm:vit_base_patch14_dinov2.lvd142m photos/`."
)


def born() -> Pair:
    """Return the pair that was born by training, on the images of its task."""
    return Pair(
        "born",
        "Grown by training on a synthetic task",
        "Nobody put these artifacts in: they appeared in training, in a ViT of 200 thousand parameters that learns to look tiles up "
        "(`synthetic:retrieval`). Its twin had 4 registers, the same seed and the same data. Neither saw a photograph, so they are not "
        "natural either. `vitreg doctor vitreg:born` shows the card, `vitreg lab born` trains such a pair.",
        (
            Role("born", "vitreg:born", "Born without registers", "ViT in which artifacts were BORN by training"),
            Role("born-reg4", "vitreg:born-reg4", "Its twin with 4 registers", "its twin, trained with 4 registers"),
        ),
        ["synthetic:retrieval"],
        [f"synthetic:retrieval@0:{FEW}"],
        tuple(f"tiles {number}" for number in range(FEW)),
    )


def planted(kind: str, photographs: Path, candidates: Sequence[str]) -> Pair:
    """Return the planted pair, on photographs."""
    return Pair(
        "planted",
        f"Written into the weights: {kind}",
        "Nothing was trained: artifacts were planted into the weights of the first model, so it is known where they are. That "
        "makes it the oracle of vitreg's own tests, and no evidence of anything in nature.",
        (
            Role("planted", f"planted:{kind}", "Planted artifacts", f"ViT with PLANTED {kind} artifacts"),
            Role("clean", "planted:clean", "Clean twin", "its clean twin: same weights, nothing planted"),
        ),
        [photographs],
        [photographs / f"{each}.png" for each in candidates],
        tuple(candidates),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """A pair with its scans, in the order of its roles, and the same images by both."""

    pair: Pair
    results: tuple[ScanResult, ...]
    pictures: list[tuple[str, list[Example]]]


def measured(pair: Pair, folder: Path) -> Measured:
    """Scan both models, each into a folder of its own, and draw the maps of some images."""
    results, backbones = [], []
    for role in pair.roles:
        say(f"\n{role.said} ({role.spec})")
        backbones.append(load(role.spec))
        results.append(scan(backbones[-1], pair.images, out=folder / role.name, quiet=False))
        say(textwrap.indent(summary(results[-1].verdict), "  "))
    return Measured(pair, tuple(results), _pictures(pair, backbones, results))


def _pictures(
    pair: Pair, backbones: Sequence[Backbone], results: Sequence[ScanResult]
) -> list[tuple[str, list[Example]]]:
    """The same images by both models: norms after the block where the outliers of the first are clearest."""
    peak = results[0].verdict.peak_layer
    layer = results[0].model.blocks - 1 if peak is None else peak
    with processes() as group:
        batches = [batches_of(pair.shown, backbone, group) for backbone in backbones]
    drawn = []
    for place, name in enumerate(pair.names):
        each = [
            portrait_from_record(backbone, name, images, place, result, layer)
            for backbone, images, result in zip(backbones, batches, results, strict=True)
        ]
        drawn.append((name, each))
    return sorted(drawn, key=lambda each: -int(each[1][0].outliers.sum()))[:SHOWN]
