"""What eight bits do to a model: W8A8 simulated, since outliers stretch the range that all tokens share.

Symmetric; weights per output channel, activations per tensor by the extremes over calibration images; all linear layers
of the blocks. The projections of `nn.MultiheadAttention` are no linear layers and stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.edited_module import edits_of
from vitreg.errors import UserError
from vitreg.repair.columns.answers.heads import headless
from vitreg.repair.columns.column import Column, PerImage, cosine_distance
from vitreg.repair.columns.data import NO_LABEL
from vitreg.repair.columns.reading import Reader
from vitreg.repair.effect import summary_of
from vitreg.repair.logits import logits_of

CALIBRATION = 64  # images
STEPS = 127  # of eight bits, symmetric


def rounded(values: Tensor, largest: Tensor) -> Tensor:
    """Return values on the grid of eight bits from -largest to largest, in their dtype.

    >>> step = largest / 127
    >>> clip(round(value / step), -127, 127) * step
    """
    step = (largest.float() / STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    return ((values.float() / step).round().clamp(-STEPS, STEPS) * step).to(values.dtype)


def weights_rounded(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Return a weight with eight bits for every output channel."""
    return rounded(weight, weight.abs().amax(1, keepdim=True))


def linears(backbone: Backbone) -> list[nn.Linear]:
    """Return the linear layers of the blocks."""
    return _linears(backbone.anatomy.blocks)


def _linears(blocks: Iterable[nn.Module]) -> list[nn.Linear]:
    return [each for block in blocks for each in block.modules() if isinstance(each, nn.Linear)]


def _of_module(backbone: Backbone) -> list[nn.Linear]:
    """Return the same layers of the module of an edited model: a copy, which shares the weights but not the hooks."""
    try:
        module = backbone.module
    except UserError:  # an edit of the whole call has no module
        return []
    edits = edits_of(module)
    return [] if edits is None else _linears(edits.anatomy.blocks)


@contextlib.contextmanager
def in_int8(backbone: Backbone, calibration: Iterable[Tensor]) -> Generator[Backbone, None, None]:
    """Run a model, edits included, in simulated eight bits while the block runs; its weights are as before afterwards.

    Args:
        calibration: images from which the ranges of the activations are taken.
    """
    layers = linears(backbone)
    largest = _ranges(backbone, layers, calibration)
    copies = _of_module(backbone)
    largest |= {
        id(copy): largest[id(layer)] for layer, copy in zip(layers, copies, strict=False) if id(layer) in largest
    }
    before = [layer.weight.detach().clone() for layer in layers]

    def quantise(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (rounded(given[0], largest[id(layer)]), *given[1:])

    hooks = [layer.register_forward_pre_hook(quantise) for layer in (*layers, *copies) if id(layer) in largest]
    try:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data.copy_(weights_rounded(weight))
        yield backbone
    finally:
        for hook in hooks:
            hook.remove()
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data.copy_(weight)


def _ranges(backbone: Backbone, layers: list[nn.Linear], images: Iterable[Tensor]) -> dict[int, Tensor]:
    """Return the largest size of each layer's input over images."""
    largest: dict[int, Tensor] = {}

    def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
        found = given[0].detach().abs().amax()
        largest[id(layer)] = torch.maximum(largest[id(layer)], found) if id(layer) in largest else found

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        for batch in images:
            backbone(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


@dataclass(frozen=True)
class Eight:
    """A model over the held-out images, in full precision and in eight bits.

    Args:
        exact, eight: what stands for each image.
        classes: the classifier's answers, in this order; None without one.
    """

    exact: Float[Tensor, "n D"]
    eight: Float[Tensor, "n D"]
    classes: tuple[Int64[Tensor, "n"], Int64[Tensor, "n"]] | None


def both(reader: Reader) -> Eight:
    """Run a model in full precision and in eight bits."""
    subject = reader.subject
    exact = _over(reader)
    with in_int8(reader.backbone, _first(subject.batches("fit"), CALIBRATION)):
        eight = _over(reader)
    classes = None if exact[1] is None or eight[1] is None else (exact[1], eight[1])
    return Eight(exact[0], eight[0], classes)


def _over(reader: Reader) -> tuple[Tensor, Tensor | None]:
    backbone, summaries, classes = reader.backbone, list[Tensor](), list[Tensor]()
    for images in reader.subject.batches("held_out"):
        summaries.append(summary_of(backbone(images)))
        if reader.classifies:
            classes.append(_answers(backbone, images))
    return torch.cat(summaries), torch.cat(classes) if classes else None


def _both(reader: Reader) -> Eight:
    return reader.once("eight bits", both)


def loss(reader: Reader) -> PerImage:
    """Return 1 - cosine of what stands for each held-out image, in full precision and in eight bits."""
    found = _both(reader)
    change = cosine_distance(found.exact, found.eight).double()
    return change, torch.ones_like(change)


def same_class(reader: Reader) -> PerImage:
    """Return of each held-out image whether the model's classifier gives the same class in eight bits."""
    classes = _both(reader).classes
    assert classes is not None  # `_unanswered` says so
    same = (classes[0] == classes[1]).double()
    return same, torch.ones_like(same)


def accuracy_lost(reader: Reader) -> PerImage:
    """Return of each labelled image 1 if only full precision has its class, -1 if only eight bits have it, else 0."""
    classes, labels = _both(reader).classes, reader.held_out.labels
    assert classes is not None
    assert labels is not None
    exact, eight = (each.cpu() == labels for each in classes)
    known = (labels != NO_LABEL).double()
    return (exact.double() - eight.double()) * known, known


def _answers(backbone: Backbone, images: Tensor) -> Tensor:
    found = logits_of(backbone, images)
    assert found is not None
    return found.argmax(1)


def _first(batches: Iterable[Tensor], count: int) -> Generator[Tensor, None, None]:
    seen = 0
    for batch in batches:
        if seen >= count:
            return
        yield batch[: count - seen]
        seen += len(batch)


def _unquantised(reader: Reader) -> str:
    return "" if linears(reader.backbone) else "its blocks have no linear layers of PyTorch's own"


def _unanswered(reader: Reader) -> str:
    return _unquantised(reader) or headless(reader)


COLUMNS = (
    Column(
        name="int8_loss", title="INT8 loss", side="gain", better="smaller",
        meaning="1 - cosine of CLS between full precision and simulated W8A8 (symmetric, weights per output channel, "
        f"activations per tensor by min-max over {CALIBRATION} images, all linear layers of the blocks).",
        run=loss, least=0.001, lacks=_unquantised,
    ),
    Column(
        name="int8_agreement", title="INT8 agreement", side="gain", better="larger", unit="%", counts="images",
        meaning="Share of the images that the model's own classifier gives the same class in simulated W8A8.",
        run=same_class, least=1.0, lacks=_unanswered,
    ),
    Column(
        name="int8_top1_loss", title="top-1 lost in INT8", side="gain", better="smaller", unit="%", counts="fall",
        meaning="By how much fewer of the labelled images the model's own classifier gives their class in simulated W8A8.",
        run=accuracy_lost, least=1.0, needs="labels", lacks=_unanswered,
    ),
)  # fmt: skip
