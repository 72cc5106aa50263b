"""Our training steps, exactly as the loop makes them: `_Loop._update`, with everything but data, journal and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vitreg.data.batches.batch import TrainBatch
from vitreg.data.views.settings import MixConfig, MultiCropConfig
from vitreg.machine.runtime import Processes
from vitreg.models.settings import ModelConfig
from vitreg.recipes.clip import VOCABULARY
from vitreg.recipes.settings import ClipConfig, DinoV2Config, OptimConfig, SupervisedConfig
from vitreg.training.fit import _Loop
from vitreg.training.plan import Plan
from vitreg.training.settings import RunConfig, TrainConfig
from vitreg.training.setup import Setup
from vitreg.verbs.train.build import build_recipe

PLAN = Plan(total=100_000, epoch_steps=1250, warmup=1000, save_every=10**9, evaluate_every=10**9, watch_every=10**9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What ours and the peer have in common.

    Args:
        size: T, S, B or L, with patches of 16 pixels.
        pixels, local_pixels: side of an image and of a small crop.
        batch: images of a step.
        prototypes: logits of DINO's head.
        text: tokens of a caption.
    """

    device: torch.device
    precision: torch.dtype
    size: str
    pixels: int
    local_pixels: int
    local_crops: int
    batch: int
    prototypes: int
    registers: int = 4
    classes: int = 1000
    drop_path: float = 0.1
    text: int = 77
    compile: bool = False

    def images(self, *lead: int, pixels: int | None = None) -> Tensor:
        """Noise that lies on the device."""
        return torch.randn(*lead, self.batch, 3, pixels or self.pixels, pixels or self.pixels, device=self.device)

    def labels(self) -> Tensor:
        return torch.randint(self.classes, (self.batch,), device=self.device)

    def captions(self) -> Tensor:
        """Ids of texts of random length; the largest id ends a text."""
        ids = torch.randint(1, VOCABULARY - 2, (self.batch, self.text))
        ends = torch.randint(8, self.text, (self.batch,))
        ids[torch.arange(self.text) > ends[:, None]] = 0
        ids[torch.arange(self.batch), ends] = VOCABULARY - 1
        return ids.to(self.device)


class Step:
    """Calls the loop's own update on a batch that lies ready; the loss is read each time, as the loop does."""

    def __init__(self, config: TrainConfig, case: Case, batch: TrainBatch) -> None:
        run = RunConfig(batch=case.batch, compile=case.compile)
        setup = Setup(
            batches=lambda start: (), mean=(0.5,) * 3, std=(0.5,) * 3, folder=Path(), device=case.device,
            precision=case.precision, group=Processes(), published={},
        )  # fmt: skip
        config = replace(config, run=run)
        self.loop = _Loop(build_recipe(config, case.classes), config, PLAN, setup)
        self.batch = batch

    def __call__(self) -> float:
        """Make one step."""
        loss = float(self.loop._update(self.batch)["loss"])
        self.loop.step += 1
        return loss


def deit3(case: Case, optimiser: str) -> Step:
    """CutMix, label smoothing and cross-entropy, with LAMB as DeiT-III, or with AdamW and clipped gradients."""
    config = TrainConfig(
        model=_model(case, layer_scale=1e-4),
        recipe=SupervisedConfig(mix=MixConfig(mixup=0.0, cutmix=1.0, smoothing=0.1), group=case.batch),
        optim=OptimConfig(name="lamb") if optimiser == "lamb" else OptimConfig(clip=1.0),
    )
    return Step(config, case, TrainBatch((case.images(1),), case.labels()))


def clip(case: Case) -> Step:
    """Both towers of OpenCLIP's width, the image tower with registers if the case has some."""
    text = text_tower(case)
    config = TrainConfig(
        model=_model(replace(case, drop_path=0.0), layer_scale=None, pre_norm=True, norm_eps=1e-5),
        recipe=ClipConfig(
            embed_dim=text["width"], text_width=text["width"], text_heads=text["heads"], text_layers=text["layers"],
            context=case.text,
        ),
        optim=OptimConfig(weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6),
    )  # fmt: skip
    return Step(config, case, TrainBatch((case.images(1),), case.captions()))


def dinov2(case: Case) -> Step:
    """The official short recipe: one head for CLS and patches, centred targets, stochastic depth on subsets."""
    config = TrainConfig(
        model=_model(case, layer_scale=1e-5, drop_path_mode="subset"),
        recipe=DinoV2Config(
            crops=MultiCropConfig(local_crops=case.local_crops, local_size=case.local_pixels),
            prototypes=case.prototypes, bottleneck=256, separate_heads=False, centring="softmax", group=case.batch,
        ),
        optim=OptimConfig(weight_decay=0.04, clip=3.0, clip_each_module=True, decay_tokens=True),
    )  # fmt: skip
    views = case.images(2), case.images(case.local_crops, pixels=case.local_pixels)
    return Step(config, case, TrainBatch(views))


def text_tower(case: Case) -> dict[str, int]:
    """The text tower that OpenCLIP pairs with an image tower; for ViT-T, a smaller one."""
    width, heads, layers = {"T": (192, 3, 6), "S": (384, 6, 12), "B": (512, 8, 12), "L": (768, 12, 12)}[case.size]
    return {"width": width, "heads": heads, "layers": layers}


def _model(case: Case, **settings: object) -> ModelConfig:
    return ModelConfig(
        size=case.size, image_size=case.pixels, registers=case.registers, drop_path=case.drop_path, **settings
    )
