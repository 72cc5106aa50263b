"""Common parts of DINO and DINOv2: a network with its heads, its teacher copy, and the teacher's targets.

The teacher is an average of the student over time (`vitreg.recipes.average`) and is never trained. Its outputs become
targets by Sinkhorn-Knopp, or by centring and sharpening: both prevent collapse to one output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.models.depth import draw_depth
from vitreg.models.heads import DinoHead
from vitreg.models.settings import ModelConfig
from vitreg.recipes.average import move_towards
from vitreg.recipes.foreign import Network
from vitreg.recipes.parameters import ParamGroup, group_parameters
from vitreg.recipes.recipe import Progress
from vitreg.recipes.registers import keep_registers
from vitreg.recipes.self_distill.targets import sinkhorn, softmax_centring, update_centre
from vitreg.recipes.settings import DinoConfig, DinoV2Config, OptimConfig
from vitreg.schedule import cosine, linear

C = TypeVar("C", DinoConfig, DinoV2Config)


class Tower(nn.Module):
    """A Vision Transformer with its projection heads; the names of the weights are those of official checkpoints.

    Args:
        backbone: the network.
        dino_head: reads CLS.
        ibot_head: reads patches; None where there is no patch loss, or where `dino_head` serves both.
    """

    def __init__(self, backbone: Network, dino_head: DinoHead, ibot_head: DinoHead | None = None) -> None:
        super().__init__()
        self.backbone, self.dino_head, self.ibot_head = backbone, dino_head, ibot_head

    def study(
        self,
        model: ModelConfig,
        stacks: Sequence[Float[Tensor, "V B 3 _H _W"]],
        mask: Tensor | None,
        group: int,
        progress: Progress,
    ) -> list[Float[Tensor, "V*B _N D"]]:
        """Return the student's tokens of all views in one pass, with stochastic depth and hidden registers.

        Args:
            stacks: views of one size each.
            mask: hidden patches of the first stack, bool [V * B, P].
            group: consecutive samples drawn together.
        """
        samples, views = stacks[0].shape[1], [len(stack) for stack in stacks]
        depths = [
            draw_depth(
                model.drop_path, len(self.backbone.blocks), samples, model.drop_path_mode, group, progress,
                views=count, purpose=f"depth of stack {number}",
            )
            for number, count in enumerate(views)
        ]  # fmt: skip
        kept = keep_registers(model, samples, group, progress, views=sum(views))  # [all V * B, R]
        return self.backbone.forward_stacks(
            [stack.flatten(0, 1) for stack in stacks],
            masks=[mask, *[None] * (len(stacks) - 1)],
            depths=depths,
            registers_kept=None if kept is None else kept.split([count * samples for count in views]),
        )

    def project(
        self, cls: Float[Tensor, "C D"], patches: Float[Tensor, "M D"]
    ) -> tuple[Float[Tensor, "C K"], Float[Tensor, "M L"]]:
        """Return the logits of CLS tokens and of patches in float32, in one pass where one head serves both."""
        if self.ibot_head is not None:
            return self.dino_head(cls).float(), self.ibot_head(patches).float()
        both = self.dino_head(torch.cat([cls, patches])).float()
        return both[: len(cls)], both[len(cls) :]

    def parameter_groups(self, optim: OptimConfig, prefix: str, frozen_last_layer: int) -> list[ParamGroup]:
        """Sort the weights into groups that are clipped as "backbone", "dino_head" and "ibot_head".

        Args:
            prefix: name of the tower in its recipe.
            frozen_last_layer: steps during which the prototypes do not learn.
        """
        groups = group_parameters(self, optim, frozen_last_layer=frozen_last_layer)
        return [replace(group, names=tuple(f"{prefix}.{name}" for name in group.names)) for group in groups]


class Pair(nn.Module, Generic[C]):
    """A student and its teacher: a recipe without its loss. Its `Targets` update their centres after every step."""

    def __init__(self, model: ModelConfig, config: C, student: Tower) -> None:
        super().__init__()
        self.model, self.config, self.group = model, config, config.group
        self.student = student
        self.teacher = teacher_of(student)

    def temperature(self, progress: Progress) -> float:
        """Return the temperature of the teacher's targets in this step."""
        config = self.config
        return teacher_temperature(progress, config.teacher_temp_start, config.teacher_temp, config.teacher_temp_epochs)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move the centres, and the teacher towards the student."""
        for targets in self.children():
            if isinstance(targets, Targets):
                targets.move()
        momentum = cosine(progress.step, self.config.momentum, self.config.momentum_end, progress.total)
        move_towards(self.teacher, self.student, momentum)

    def train(self, mode: bool = True) -> Self:
        """Leave the teacher as it is, in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort the weights of the student; prototypes do not learn in the first epoch."""
        frozen = round(self.config.freeze_last_layer * self.config.epoch_steps)
        return self.student.parameter_groups(optim, "student", frozen)

    def begin_with(self, fill: Callable[[Any], list[str]]) -> list[str]:
        """Start student and teacher from other weights."""
        notes = fill(self.student.backbone)
        move_towards(self.teacher, self.student, 0.0)
        return notes

    def backbone(self) -> Network:
        """The teacher's network."""
        return self.teacher.backbone

    def shards(self) -> list[nn.Module]:
        """The blocks of student and teacher."""
        return [*self.student.backbone.blocks, *self.teacher.backbone.blocks]


def teacher_of(student: Tower) -> Tower:
    """Return a copy that is never trained and has no stochastic depth: the teacher starts equal to the student."""
    return copy.deepcopy(student).requires_grad_(False).eval()


def teacher_temperature(progress: Progress, start: float, end: float, epochs: float) -> float:
    """Return the temperature of the teacher's targets: from `start` in a straight line to `end` for some epochs."""
    return linear(progress.step, start, end, round(epochs * progress.epoch_steps) - 1)


class Targets(nn.Module):
    """The teacher's logits as distributions over prototypes, kept from collapsing to one.

    As in official code, a step uses the centre of the steps before it, so all its micro-batches and processes share
    one. Their logits are summed and update the centre after the step.

    Args:
        prototypes: K.
        centring: "sinkhorn" spreads the targets of a step over the prototypes; "softmax" subtracts the centre.
        momentum: share of the old centre kept at each step.
    """

    centre: Float[Tensor, "K"] | None
    seen: Float[Tensor, "K+1"] | None

    def __init__(self, prototypes: int, centring: Literal["sinkhorn", "softmax"], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        centred = centring == "softmax"
        self.register_buffer("centre", torch.zeros(prototypes) if centred else None)
        # Sum of the weighted logits of this step, then the sum of the weights. Empty between steps, so never saved.
        self.register_buffer("seen", torch.zeros(prototypes + 1) if centred else None, persistent=False)

    @torch.no_grad()
    def forward(
        self, logits: Float[Tensor, "N K"], temperature: float, weights: Float[Tensor, "N"]
    ) -> Float[Tensor, "N K"]:
        """Return the targets, and remember the logits for the centre.

        Args:
            weights: of each row in the mean that moves the centre.
        """
        if self.centre is None or self.seen is None:
            return sinkhorn(logits, temperature)
        self.seen[:-1] += (logits * weights[:, None]).sum(0)
        self.seen[-1] += weights.sum()
        return softmax_centring(logits, self.centre, temperature)

    @torch.no_grad()
    def move(self) -> None:
        """Move the centre towards the mean logits of all processes since the last update."""
        if self.centre is None or self.seen is None:
            return
        self.centre.copy_(update_centre(self.centre, self.seen[:-1], self.seen[-1], self.momentum))
        self.seen.zero_()
