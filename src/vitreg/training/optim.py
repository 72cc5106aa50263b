"""From parameter groups to an optimiser step: AdamW or LAMB, the rates of a step, clipped gradients.

Rates are pure functions of the step, written into the optimiser at every step, so checkpoints need not store them.
Everything works on sharded parameters (FSDP2) and on whole ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import OptimConfig
from vitreg.schedule import cosine, step_of_official_deit, warmup_cosine


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rate and weight decay of a step, before the multipliers of the groups."""

    lr: float
    weight_decay: float


def build_optimizer(groups: Sequence[ParamGroup], config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the groups, in their order. Its rates are 0 until `set_rates`.

    LAMB is timm's with the settings that DeiT-III used (apex): decay inside the update, a trust ratio for decayed
    parameters only, the global gradient norm first clipped to 1. LAMB requires that all parameters are sharded or none;
    AdamW requires this per group.
    """
    described = [{"params": list(group.params)} for group in groups]
    if config.name == "lamb":
        from timm.optim import Lamb

        return Lamb(described, lr=0.0, betas=config.betas, eps=config.eps, weight_decay=0.0, max_grad_norm=1.0)
    fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group.params)
    return torch.optim.AdamW(
        described, lr=0.0, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True if fused else None
    )


def scaled_lr(config: OptimConfig, batch: int) -> float:
    """Return the peak learning rate for `batch` samples per step over all processes."""
    scale = {"none": 1.0, "linear512": batch / 512, "sqrt1024": math.sqrt(batch / 1024)}
    return config.lr * scale[config.lr_scaling]


def rates(config: OptimConfig, progress: Progress, warmup: int, batch: int) -> Rates:
    """Return learning rate and weight decay of a step.

    Args:
        progress: where the run stands; only its step, total and epoch length matter.
        warmup: steps, as converted from `config.warmup`.
        batch: samples per step over all processes.
    """
    step = step_of_official_deit(progress.step, progress.epoch_steps) if config.per_epoch else progress.step
    lr = warmup_cosine(
        step,
        peak=scaled_lr(config, batch),
        end=config.min_lr,
        warmup=warmup,
        total=progress.total,
        warmup_start=config.warmup_lr,
        curve=config.curve,
    )
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    return Rates(lr, cosine(progress.step, config.weight_decay, end, progress.total))


def set_rates(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[ParamGroup],
    config: OptimConfig,
    progress: Progress,
    warmup: int,
    batch: int,
) -> Rates:
    """Write the rates of a step into the optimiser that was built from these groups, and return them.

    A frozen group has learning rate 0 and so no decay; its moments are still updated, as in official code.

    Args:
        warmup, batch: see `rates`.
    """
    now = rates(config, progress, warmup, batch)
    for group, options in zip(groups, optimizer.param_groups, strict=True):
        options["lr"] = now.lr * group.lr_scale if progress.step >= group.frozen_steps else 0.0
        options["weight_decay"] = now.weight_decay * group.decay_scale
    return now


@torch.no_grad()
def clip_gradients(groups: Sequence[ParamGroup], config: OptimConfig) -> dict[str, Tensor]:
    """Clip gradients in place to the norm `config.clip`: of all together, or of each module.

    Returns:
        The L2 norms before clipping, "gradient_norm" or "gradient_norm/<module>", even if nothing is clipped.
    """
    clipped_together: dict[str, list[nn.Parameter]] = {}
    for group in groups:
        key = f"gradient_norm/{group.module}" if config.clip_each_module else "gradient_norm"
        clipped_together.setdefault(key, []).extend(group.params)
    norms = {}
    for key, parameters in clipped_together.items():
        norms[key] = gradient_norm(parameters)
        if config.clip is not None:
            for alike in _sharded_and_whole(parameters):
                torch.nn.utils.clip_grads_with_norm_(alike, config.clip, norms[key])
    return norms


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Return the L2 norm of all gradients together, over all shards where they are sharded; 0 without gradients."""
    norms = []
    for alike in _sharded_and_whole(parameters):
        norm = torch.nn.utils.get_total_norm([p.grad for p in alike if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)


def _sharded_and_whole(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Separate sharded and whole parameters with a gradient: foreach kernels take no mixture, and FSDP2 leaves scalars
    whole."""
    kinds: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds.setdefault(isinstance(parameter.grad, DTensor), []).append(parameter)
    return list(kinds.values())
