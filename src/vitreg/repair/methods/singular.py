"""Singular: the singular values of the weights that write the outliers are trained down, as SINDER does (Wang et al. 2024).

Only singular values change: of the linear layers of the ten blocks up to the onset, without queries and keys. Singular
vectors and biases stay. The loss draws an outlier to the mean of its 3 x 3 neighbourhood, in which patches along the
outliers' direction hardly count. Ours: outliers are those of the unrepaired model beyond the scan's threshold; after each pass other images
judge it, and the best pass within the damage allowed is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.anatomy.parts import substituted
from vitreg.backbones.reweighted import reweighted
from vitreg.errors import UserError
from vitreg.repair.directions import angle, deviations_of, measured_direction, predicted_directions
from vitreg.repair.effect import Effects
from vitreg.repair.method import Fitted, Method
from vitreg.repair.per_image.detect import detector_for
from vitreg.repair.settings import DetectedSettings, SingularSettings
from vitreg.repair.subject import Subject

TEMPERATURE = 0.1  # of |cosine| to the direction, in the weight of a neighbour
DONE = 0.75  # training ends once so many images of a pass are done
NEAR = 2.0  # an image is done when its outliers are no further from their targets than so many times the usual (ours)
MOMENTUM = 0.9


@dataclass
class Decomposed:
    """A weight whose singular values are trained.

    Args:
        rows: of the parameter that are decomposed: the values' part of a fused projection, else all.
    """

    module: nn.Module
    attribute: str
    name: str
    rows: slice
    whole: Float[Tensor, "O I"]
    left: Float[Tensor, "R K"]
    values: Float[Tensor, "K"]
    right: Float[Tensor, "K I"]

    def weight(self) -> Float[Tensor, "O I"]:
        """Return the parameter with its present singular values."""
        new = (self.left * self.values) @ self.right
        start, stop, _ = self.rows.indices(len(self.whole))
        return torch.cat([self.whole[:start], new, self.whole[stop:]]).to(getattr(self.module, self.attribute).dtype)


def decomposed(backbone: Backbone, blocks: range) -> list[Decomposed]:
    """Decompose the matrices of some blocks, all but those of queries and keys.

    Raises:
        UserError: if the attention of the model is not recognised.
    """
    anatomy = backbone.anatomy
    if not anatomy.attention:
        raise UserError(
            f"the attention of {backbone.spec} is not recognised, so queries and keys cannot be told from other weights; "
            "substitute needs no weights."
        )
    names = {id(parameter): name for name, parameter in anatomy.tower.named_parameters()}
    found = []
    for block in blocks:
        projections = anatomy.attention[block].weights()
        fused, left_alone = len(projections) == 1, {id(each) for each in projections[:-1]}
        for module in anatomy.blocks[block].modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                if parameter.ndim != 2 or id(parameter) in left_alone or id(parameter) not in names:
                    continue
                size = len(parameter)
                rows = slice(2 * size // 3, size) if fused and parameter is projections[0] else slice(0, size)
                whole = parameter.detach().float()
                left, values, right = torch.linalg.svd(whole[rows], full_matrices=False)
                found.append(
                    Decomposed(
                        module, attribute, names[id(parameter)], rows, whole, left, values.requires_grad_(), right
                    )
                )
    return found


def targets(
    patches: Float[Tensor, "B P D"], marked: Bool[Tensor, "B P"], direction: Float[Tensor, "D"], grid: tuple[int, int]
) -> tuple[Float[Tensor, "B P D"], Bool[Tensor, "B P"]]:
    """Return what each patch is drawn to, the mean over its 3 x 3 neighbourhood with the weights

        exp(-|cos(x, direction)| / 0.1) * exp(-distance^2 / 2), and 0 for marked patches (ours),

    and whether it has such a neighbour. Without the zeros, outliers of low norm would be drawn to themselves: ordinary
    patches lie along what those lack.
    """
    along = F.cosine_similarity(patches, direction.to(patches), dim=-1).abs()
    weights = (torch.exp(-along / TEMPERATURE) * ~marked).unflatten(1, grid)[:, None]  # [B, 1, rows, cols]
    offsets = torch.tensor([-1.0, 0.0, 1.0], device=patches.device, dtype=patches.dtype)
    bell = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / 2)[None, None]
    values = patches.transpose(1, 2).unflatten(2, grid) * weights  # [B, D, rows, cols]
    width = values.shape[1]
    total = F.conv2d(values, bell.expand(width, 1, 3, 3), padding=1, groups=width)
    weight = F.conv2d(weights, bell, padding=1)
    means = total / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    return means.flatten(2).transpose(1, 2), (weight > 0).flatten(1)


def fit(subject: Subject, settings: SingularSettings) -> Fitted:
    """Predict the direction, and train the singular values of the blocks up to the onset."""
    backbone, onset = subject.backbone, subject.outliers.onset
    if backbone.edit_names:
        raise UserError(
            f"{backbone.spec} is edited while it runs, and singular changes weights; repair the weights first."
        )
    measured = measured_direction(subject)
    predicted = {
        "weights": predicted_directions(backbone, upto=onset)[onset],
        "measured": predicted_directions(backbone, deviations_of(subject), upto=onset)[onset],
    }
    direction = predicted[settings.deviation] if settings.direction == "predicted" else measured
    blocks = range(max(0, onset + 1 - settings.blocks), onset + 1)
    parts = decomposed(backbone, blocks)
    began = [float(each.values.detach().sum()) for each in parts]
    training = _Training(subject, settings, parts, direction.float().to(backbone.device))
    training.run()
    tensors = {name: value.cpu() for name, value in training.weights().items()}
    with torch.no_grad():
        changed = {
            each.name: round(1 - float(each.values.sum()) / max(before, 1e-12), 6)
            for each, before in zip(parts, began, strict=True)
        }
    details = {
        "blocks": list(blocks),
        "angles": {name: angle(each, measured) for name, each in predicted.items()},
        "losses": training.losses,
        "passes": training.passes,
        "lowered": dict(sorted(changed.items(), key=lambda pair: -pair[1])[:8]),
    }
    same = not any(details["lowered"].values())
    note = "No pass within the damage allowed left fewer outliers, so the weights are as they were."
    return Fitted(tensors, details, [note] if same else [])


@dataclass
class _Training:
    """Steps of gradient descent, judged on other images after each pass."""

    subject: Subject
    settings: SingularSettings
    parts: list[Decomposed]
    direction: Float[Tensor, "D"]
    losses: list[float] = field(default_factory=list)
    passes: list[dict[str, float]] = field(default_factory=list)

    def run(self) -> None:
        """Train until the number of steps is reached, most images are done, or the damage allowed is passed; keep the
        best pass within it, which may be the start."""
        effects = Effects(self.subject, self.subject.outliers, "tune")
        optimizer = torch.optim.SGD([each.values for each in self.parts], lr=self.settings.rate, momentum=MOMENTUM)
        batches = list(self._marked())
        start = effects.of(self.subject.backbone)
        best, kept = (start.worst_share, abs(math.log(start.ratio or 1.0))), self._values()
        while len(self.losses) < self.settings.steps:
            done = self._once(optimizer, batches)
            effect = effects.of(reweighted(self.subject.backbone, self.weights(), "singular"))
            self.passes.append(
                {
                    "steps": len(self.losses), "done": done, "share": effect.worst_share, "cls_change": effect.cls_change,
                }
            )  # fmt: skip
            if effect.cls_change > self.settings.max_damage:
                break
            far = abs(math.log(max(effect.ratio or 1.0, 1e-6)))
            if (effect.worst_share, far) < best:
                best, kept = (effect.worst_share, far), self._values()
            if done >= DONE:
                break
        with torch.no_grad():
            for each, values in zip(self.parts, kept, strict=True):
                each.values.copy_(values)

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters with their present singular values."""
        with torch.no_grad():
            return {each.name: each.weight() for each in self.parts}

    def _values(self) -> list[Tensor]:
        return [each.values.detach().clone() for each in self.parts]

    def _marked(self) -> Iterator[Bool[Tensor, "b P"]]:
        """Yield the outliers of the unrepaired model, step by step: they are drawn until they are ordinary."""
        backbone, onset = self.subject.backbone, self.subject.outliers.onset
        detector = detector_for(self.subject, onset, DetectedSettings())
        for pixels in self._pixels():
            trace = backbone.trace(pixels, Capture(hidden=[onset]))
            layout = trace.layout_after(onset)
            if not layout.whole:
                raise UserError(
                    "singular needs every patch after the block where outliers appear, and this model drops some; "
                    "use substitute."
                )
            yield detector(trace.hidden(onset), layout)

    def _pixels(self) -> Iterator[Tensor]:
        for pixels in self.subject.batches("fit"):
            yield from pixels.split(self.settings.images_at_once)

    def _once(self, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> float:
        """Pass once over the images. Returns the share of images that are done."""
        images = done = 0
        for pixels, marked in zip(self._pixels(), batches, strict=True):
            if len(self.losses) == self.settings.steps:
                break
            loss, near = self._loss(pixels, marked)
            images, done = images + len(pixels), done + near
            if loss is None:
                continue
            values = [each.values for each in self.parts]
            # Of the singular values only: `backward` would leave gradients in the parameters of the model given.
            for each, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
                each.grad = gradient
            optimizer.step()
            with torch.no_grad():
                for each in self.parts:
                    each.values.clamp_(min=0)  # below it a singular vector would turn around
            self.losses.append(float(loss.detach()))
        return done / max(images, 1)

    def _loss(self, pixels: Tensor, marked: Bool[Tensor, "b P"]) -> tuple[Tensor | None, int]:
        """The mean distance of outliers to their targets over the mean norm, and how many images are done: they have no
        outlier, or these are hardly further from their targets than ordinary patches."""
        backbone, onset = self.subject.backbone, self.subject.outliers.onset
        with ExitStack() as stack:
            stack.enter_context(substituted(*((each.module, each.attribute, each.weight()) for each in self.parts)))
            trace = backbone.trace(pixels, Capture(hidden=[onset]), grad=True)
            layout = trace.layout_after(onset)
            patches = layout.take(trace.hidden(onset)).float()
            wanted, possible = targets(patches.detach(), marked, self.direction, layout.grid)
            away = torch.linalg.vector_norm(patches - wanted, dim=-1)
            drawn, ordinary = marked & possible, ~marked & possible
            usual = (away.detach() * ordinary).sum(1) / ordinary.sum(1).clamp_min(1)
            own = (away.detach() * drawn).sum(1) / drawn.sum(1).clamp_min(1)
            near = own <= NEAR * usual
            drawn = drawn & ~near[:, None]
            if not bool(drawn.any()):
                return None, int(near.sum())
            norm = torch.linalg.vector_norm(patches.detach(), dim=-1).mean()
            return away[drawn].mean() / norm, int(near.sum())


def weights(found: Fitted) -> Mapping[str, Tensor]:
    """Return the new parameters."""
    return found.tensors


METHOD = Method(name="singular", settings=SingularSettings, fit=fit, weights=weights)
