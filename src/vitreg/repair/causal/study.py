"""All interventions on the sinks of a model, each beside as many random patches, over images in constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.analysis.paired import FEWEST, RESAMPLES, resamples
from vitreg.backbones import Backbone, Capture, Edit
from vitreg.errors import UserError
from vitreg.passes.progress import progress
from vitreg.passes.view import images_at_once
from vitreg.quantities import there_are
from vitreg.repair.causal.banks import SIDES, Donors, find_donors, registers_of
from vitreg.repair.causal.effects import (
    CHANGES,
    RIGHT,
    Effect,
    Output,
    accuracy_of,
    changes,
    effect_of,
    right,
)
from vitreg.repair.causal.interventions import INTERVENTIONS, Acting, Intervention
from vitreg.repair.causal.sinks import Chosen, Sinks, choose, find_sinks
from vitreg.repair.columns.data import labels_of
from vitreg.repair.logits import classifies, logits_of
from vitreg.repair.subject import Part, Subject

JUDGED: Part = "held_out"
FEWEST_IMAGES = 4  # half of them are judged
NOTHING = Capture()


@dataclass(frozen=True)
class Study:
    """What interventions on one model showed.

    Attributes:
        effects: by intervention and effect: "cls", "patches", and of a classifier "kl" and, with labels, "right".
        images: judged; `with_sinks` of them have sinks.
        per_image: mean number of sinks of those.
        untouched: accuracy of the untouched model in percent; None without labels.
        untouched_with_sinks: the same on the images with sinks; None if none of them has a label.
        missing: a sentence for each thing that could not be tested.
    """

    spec: str
    sinks: Sinks
    head: tuple[int, int] | None
    donors: int
    images: int
    with_sinks: int
    per_image: float
    has_cls: bool
    registers: int
    effects: Mapping[str, Mapping[str, Effect]]
    untouched: float | None
    untouched_with_sinks: float | None
    missing: Sequence[str]

    @property
    def tested(self) -> list[Intervention]:
        """The interventions that were made."""
        return [each for each in INTERVENTIONS if each.name in self.effects]


def study(subject: Subject, labels: Mapping[str, int] | None = None, *, batch: int | None = None) -> Study:
    """Change the sinks of a model in every way it allows.

    Sinks are found, and means and donors taken, on one half of the images; effects are measured on the other.

    Args:
        subject: without images to choose with.
        labels: classes for the model's own classifier, as `read_labels` reads them.
        batch: images at once; by memory if None.
    Raises:
        UserError: for fewer than 4 images, none with sinks, labels of a model without a classifier or of none of the
            images, and as `find_sinks` does.
    """
    if len(subject.images) < FEWEST_IMAGES:
        raise UserError(
            f"causes are looked for on at least {FEWEST_IMAGES} images, and {there_are(len(subject.images))}."
        )
    batch = batch or images_at_once(subject.backbone, subject.size)
    names = subject.images.names_of(JUDGED)
    classes = None if labels is None else labels_of(names, labels)
    sinks = find_sinks(subject)
    donors = find_donors(subject, sinks, batch)
    run = _Run(subject, sinks, donors, classes, batch)
    run.over(len(names))
    return run.result(len(names))


@dataclass
class _Run:
    subject: Subject
    sinks: Sinks
    donors: Donors
    classes: Int64[Tensor, "n"] | None
    batch: int
    seen: dict[tuple[str, str, str], list[Tensor]] = field(default_factory=dict)  # intervention, effect, side
    before: list[Tensor] = field(default_factory=list)  # whether the untouched model is right
    counts: list[Tensor] = field(default_factory=list)  # sinks of each image
    classifies: bool = False

    def __post_init__(self) -> None:
        """Say what the model allows. Raises UserError for labels of a model without a classifier."""
        backbone = self.subject.backbone
        self.classifies = classifies(backbone, next(self.subject.images.batches("fit", 1)))
        if self.classes is not None and not self.classifies:
            raise UserError(f"{backbone.spec} has no classifier, so labels say nothing of it; leave --labels out.")
        self.registers = registers_of(self.subject)
        self.has_cls = bool(backbone.layouts(self.subject.size)[-1].cls)
        has = {"attention": self.donors.head is not None, "cls": self.has_cls, "registers": self.registers > 0}
        self.asked = [each for each in INTERVENTIONS if all(has[need] for need in each.needs)]

    def over(self, images: int) -> None:
        """Look at all images that are judged."""
        subject = self.subject
        with progress(f"causes in {subject.backbone.spec}", images, unit="images", show=subject.show) as advance:
            for start, pixels in self._judged():
                trace = subject.backbone.trace(pixels, self.sinks.capture)
                numbers = torch.arange(start, start + len(pixels))
                chosen = choose(self.sinks.of(trace), self.sinks.there, self.registers, numbers, subject.seed)
                self._batch(pixels, Output(trace.final, self._logits(subject.backbone, pixels)), chosen)
                advance(len(pixels))

    def _judged(self) -> Iterator[tuple[int, Float[Tensor, "B C H W"]]]:
        start = 0
        for pixels in self.subject.images.batches(JUDGED, self.batch):
            yield start, pixels
            start += len(pixels)

    def _batch(self, pixels: Tensor, before: Output, chosen: Chosen) -> None:
        """Make every intervention on both sides, and keep what it does to each image."""
        self.counts.append(chosen.sinks.sum(1))
        if self.classes is not None:
            self.before.append(right(before, self.classes[chosen.numbers]))
        for each in self.asked:
            sides = {"sinks": None if each.on_registers else chosen.sinks,
                     "random": chosen.instead if each.on_registers else chosen.random}  # fmt: skip
            untouched = self.sinks.there & ~chosen.sinks & ~sides["random"]
            acts = torch.ones_like(chosen.acts) if each.on_registers else chosen.acts
            for side, marked in sides.items():
                if not acts.any():
                    found = {name: torch.full(acts.shape, torch.nan) for name in self._named}
                else:
                    after = self._output(pixels, each.edits(self._acting(side, marked, chosen)))
                    found = changes(before, after, untouched)
                    if self.classes is not None:
                        found[RIGHT] = right(after, self.classes[chosen.numbers])
                for name, values in found.items():
                    kept = torch.where(acts, values.double(), torch.nan)
                    self.seen.setdefault((each.name, name, side), []).append(kept)

    @property
    def _named(self) -> list[str]:
        names = [*CHANGES[:2], *(CHANGES[2:] if self.classifies else ())]
        return names if self.classes is None else [*names, RIGHT]

    def _acting(self, side: str, marked: Bool[Tensor, "B P"] | None, chosen: Chosen) -> Acting:
        bank, seed = self.donors.banks[side], self.subject.seed
        return Acting(self.sinks, bank, marked, chosen.target, chosen.numbers, self.donors.head, seed)

    def _output(self, pixels: Tensor, edits: Sequence[Edit]) -> Output:
        backbone = self.subject.backbone
        tokens = backbone.trace(pixels, NOTHING, edits).final
        return Output(tokens, self._logits(backbone.edited(edits, "intervention"), pixels) if self.classifies else None)

    def _logits(self, backbone: Backbone, pixels: Tensor) -> Tensor | None:
        return logits_of(backbone, pixels) if self.classifies else None

    def result(self, images: int) -> Study:
        """Sum up. Raises UserError if no image has sinks."""
        counts = torch.cat(self.counts)
        acted = int((counts > 0).sum())
        if not acted:
            raise UserError(f"none of the {images} images to judge has a sink; give more images.")
        weights = resamples(images, RESAMPLES, self.subject.seed) if acted >= FEWEST else None
        effects: dict[str, dict[str, Effect]] = {}
        for each in self.asked:
            for name in self._named:
                one, other = (torch.cat(self.seen[each.name, name, side]) for side in SIDES)
                found = (
                    accuracy_of(one, other, certain=weights is not None)
                    if name == RIGHT
                    else effect_of(one, other, weights)
                )
                if found is not None:
                    effects.setdefault(each.name, {})[name] = found
        return Study(
            spec=self.subject.backbone.spec, sinks=self.sinks, head=self.donors.head, donors=self.donors.images,
            images=images, with_sinks=acted, per_image=float(counts.sum()) / acted, has_cls=self.has_cls,
            registers=self.registers, effects=effects,
            untouched=self._accuracy(counts >= 0), untouched_with_sinks=self._accuracy(counts > 0),
            missing=self._missing(),
        )  # fmt: skip

    def _accuracy(self, of: Bool[Tensor, "n"]) -> float | None:
        found = torch.cat(self.before)[of].nanmean().item() if self.before else math.nan
        return None if math.isnan(found) else 100 * found

    def _missing(self) -> list[str]:
        backbone = self.subject.backbone
        found = []
        if self.donors.head is None:
            found.append(f"Attention of {backbone.spec} cannot be read, so only its tokens are changed.")
        if not self.has_cls:
            found.append("This model has no class token; the mean of the untouched patches is judged instead.")
        if not self.registers:
            found.append("This model has no registers in all of its blocks, so none are exchanged.")
        return found
