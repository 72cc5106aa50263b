"""PH-Reg (Chen et al. 2025): the model learns to give, in one forward, what its frozen self gives on average over shifted
views, with new register tokens.

Trained are the registers, the position table, the patch embedding and the last block. The same training without registers
is always reported beside it (`details["control"]`): in our pilot it removed outliers as well. The number of epochs, and
the median of views for their mean, are vitreg's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.parts import parameter_name
from vitreg.backbones.edits import Edit
from vitreg.backbones.reweighted import reweighted
from vitreg.errors import UserError
from vitreg.repair.effect import Effects
from vitreg.repair.method import Fitted, Method
from vitreg.repair.methods.denoise import ShiftAverage, views
from vitreg.repair.settings import DistillSettings
from vitreg.repair.subject import Subject
from vitreg.repair.tokens import AddTokens, DropTokens
from vitreg.repair.train import Schedule, cosine_loss, train, trainable_copy, wanted_patches

REGISTERS = "registers"
WEIGHT = "weight."  # before the name of a parameter, in the tensors of a repair
WEIGHT_DECAY = 1e-2


def loss(found: Float[Tensor, "B P D"], wanted: Float[Tensor, "B P D"]) -> Float[Tensor, ""]:
    """Return (1 - cosine) + mean squared error, mean over patches."""
    return cosine_loss(found, wanted) + F.mse_loss(found, wanted)


def trained_names(backbone: Backbone) -> list[str]:
    """Return the parameters of the tower that are trained: the position table, the patch embedding, the last block."""
    anatomy = backbone.anatomy
    names = {id(parameter): name for name, parameter in anatomy.tower.named_parameters()}
    table = anatomy.position_table()
    chosen = [] if table is None else [parameter_name(anatomy.tower, table[0])]
    for module in (anatomy.patch_projection, anatomy.blocks[-1]):
        chosen += [names.get(id(parameter)) for parameter in module.parameters()]
    return list(dict.fromkeys(name for name in chosen if name is not None))


def fit(subject: Subject, settings: DistillSettings) -> Fitted:
    """Train with registers, and without."""
    base = subject.backbone
    if settings.registers and not base.anatomy.resizable:
        raise UserError(
            f"{base.spec} takes no added tokens: its position bias is tied to its grid; distill with --registers 0."
        )
    trainable_copy(base)  # refuse what cannot be trained before the teacher runs
    views(base.layout(subject.size).grid, settings.shifts)
    average = Edit("forward", None, ShiftAverage(settings.shifts, base.anatomy.patch))
    teacher = base.edited([average], "denoise")
    # A control is the same model untrained: the same tokens are added, and nothing is learnt.
    schedule = Schedule(
        epochs=0 if subject.random else settings.epochs, lr=settings.lr, last_lr=settings.last_lr,
        weight_decay=WEIGHT_DECAY, batch=settings.images_at_once,
    )  # fmt: skip
    with wanted_patches(subject, lambda pixels: teacher(pixels).patches) as wanted:
        found = _trained(subject, settings.registers, wanted, schedule)
        details = dict(found.details)
        if settings.registers and not subject.random:
            control = _trained(subject, 0, wanted, schedule)
            details["control"] = {"registers": 0, **control.details, "held_out": _effect(subject, control)}
    return Fitted(found.tensors, details)


def _trained(subject: Subject, registers: int, wanted: Any, schedule: Schedule) -> Fitted:
    """Train a copy with so many registers."""
    student = trainable_copy(subject.backbone)
    width, device = student.anatomy.width, subject.backbone.device
    draw = torch.Generator().manual_seed(subject.seed)
    values = torch.randn(registers, width, generator=draw) / width**0.5
    added = nn.Parameter(values.to(device))
    tower = student.anatomy.tower
    own = {name: tower.get_parameter(name).requires_grad_() for name in trained_names(student)}
    running = student.edited([Edit("input", None, AddTokens(added))], "registers") if registers else student
    parameters = [*own.values(), *([added] if registers else [])]
    losses = train(subject, parameters, lambda pixels: running(pixels, grad=True).patches, wanted, loss, schedule)
    tensors = {WEIGHT + name: parameter.detach().cpu() for name, parameter in own.items()}
    if registers:
        tensors[REGISTERS] = added.detach().cpu()
    return Fitted(tensors, {"losses": losses, "trained": sorted(own)})


def _effect(subject: Subject, found: Fitted) -> dict[str, Any] | None:
    if not subject.images.count("held_out"):
        return None
    fixed = reweighted(subject.backbone, weights(found), "distill without registers")
    return Effects(subject, subject.outliers, "held_out").of(fixed).model_dump()


def weights(found: Fitted) -> Mapping[str, Tensor]:
    """Return the trained parameters."""
    return {name.removeprefix(WEIGHT): value for name, value in found.tensors.items() if name.startswith(WEIGHT)}


def edits(found: Fitted) -> Sequence[Edit]:
    """Add the registers before block 0."""
    return [Edit("input", None, AddTokens(found.tensors[REGISTERS]))] if REGISTERS in found.tensors else []


def leaving(found: Fitted) -> Sequence[Edit]:
    """Take the registers out after the last block."""
    if REGISTERS not in found.tensors:
        return []
    return [Edit("block", -1, DropTokens(len(found.tensors[REGISTERS])))]


METHOD = Method(
    name="distill", settings=DistillSettings, fit=fit, edits=edits, leaving=leaving, weights=weights, fewest=8
)
