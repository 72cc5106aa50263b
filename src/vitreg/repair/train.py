"""The loop of repairs that are trained: a float32 copy of the model learns to give wanted patches. Nothing is written
before it ends, and the model itself is not touched."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.passes.progress import progress
from vitreg.repair.subject import Subject

MOST = 5000  # images of an epoch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: AdamW, its rate falling by the same factor after every epoch, from `lr` to `last_lr`."""

    epochs: int
    lr: float
    last_lr: float
    weight_decay: float
    batch: int = 8

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        return self.lr * (self.last_lr / self.lr) ** (epoch / max(self.epochs - 1, 1))


def trainable_copy(backbone: Backbone) -> Backbone:
    """Return a float32 copy of a model, all of it frozen.

    Raises:
        UserError: for an edited model: weights are repaired before anything that acts while the model runs.
    """
    if backbone.edit_names:
        raise UserError(
            f"{backbone.spec} is edited while it runs, so its weights cannot be trained; repair them first."
        )
    return Backbone(copy.deepcopy(backbone.module).float().requires_grad_(False), spec=backbone.spec)


@contextmanager
def wanted_patches(
    subject: Subject, make: Callable[[Tensor], Float[Tensor, "B P D"]]
) -> Generator[np.ndarray, None, None]:
    """Compute what the patches of every image to fit on should become, once, into a temporary file: [n, P, D], float32."""
    count = min(subject.images.count("fit"), MOST)
    with tempfile.TemporaryFile() as file:
        shape, done = (), 0
        with progress("teacher", count, unit="images", show=subject.show) as advance:
            for pixels in subject.batches("fit"):
                if done == count:
                    break
                patches = make(pixels[: count - done]).float().cpu().contiguous()
                file.write(patches.numpy().tobytes())
                shape, done = patches.shape[1:], done + len(patches)
                advance(len(patches))
        file.flush()
        yield np.memmap(file, np.float32, "r", shape=(done, *shape))


def train(
    subject: Subject,
    parameters: Iterable[Tensor],
    patches: Callable[[Tensor], Float[Tensor, "B P D"]],
    wanted: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
) -> list[float]:
    """Train parameters such that `patches` gives what is wanted. The same seed gives the same result on one machine.

    Args:
        parameters: they are changed in place.
        patches: images -> patches, with gradients.
        wanted: of every image to fit on, see `wanted_patches`.
        loss: (patches, wanted) -> one number.
    Returns:
        the mean loss of every epoch.
    """
    optimiser = torch.optim.AdamW(list(parameters), lr=schedule.lr, weight_decay=schedule.weight_decay)
    device, losses = subject.backbone.device, []
    with progress("training", schedule.epochs * len(wanted), unit="images", show=subject.show) as advance:
        for epoch in range(schedule.epochs):
            order = np.random.default_rng((subject.seed, epoch)).permutation(len(wanted))
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(epoch)
            total = 0.0
            for start in range(0, len(order), schedule.batch):
                rows = np.sort(order[start : start + schedule.batch])
                with torch.enable_grad():
                    value = loss(patches(subject.images.take("fit", rows)), torch.from_numpy(wanted[rows]).to(device))
                    optimiser.zero_grad(set_to_none=True)
                    value.backward()
                optimiser.step()
                now = value.item()
                total += now * len(rows)
                advance(len(rows), f"loss {now:.4f}")
            losses.append(total / len(order))
    return losses


def cosine_loss(found: Float[Tensor, "B P D"], wanted: Float[Tensor, "B P D"]) -> Float[Tensor, ""]:
    """Return 1 - cosine, mean over patches."""
    return 1 - F.cosine_similarity(found, wanted, dim=-1).mean()


def places_of(tower: nn.Module) -> Mapping[int, tuple[nn.Module, str, str]]:
    """Return where every parameter of a tower is: its identity -> (module, attribute, name)."""
    return {
        id(parameter): (module, attribute, f"{name}.{attribute}" if name else attribute)
        for name, module in tower.named_modules()
        for attribute, parameter in module.named_parameters(recurse=False)
    }
