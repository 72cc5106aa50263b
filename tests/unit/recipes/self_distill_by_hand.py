"""DINO and DINOv2 transcribed as loops, and recipes small enough to be compared with them.

The transcription uses nothing of `vitreg.recipes` but the weights, and which patches are masked.
"""

from dataclasses import replace

import torch

from vitreg.data.batches.batch import TrainBatch
from vitreg.data.views.settings import MultiCropConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.recipe import Progress
from vitreg.recipes.self_distill.dino import Dino
from vitreg.recipes.self_distill.dinov2 import DinoV2, hide_patches
from vitreg.recipes.self_distill.teacher import Targets
from vitreg.recipes.settings import DinoConfig, DinoV2Config

MODEL = ModelConfig(width=32, depth=2, heads=2, patch=8, image_size=32, registers=2, layer_scale=None, token_init=0.02)
CROPS = MultiCropConfig(local_crops=2, local_size=16)
SMALL = {"crops": CROPS, "prototypes": 64, "hidden": 48, "bottleneck": 16, "group": 2, "epoch_steps": 10}
V2 = DinoV2Config(**SMALL, ibot_prototypes=64, ibot_bottleneck=24)
V1 = DinoConfig(**SMALL)
START = Progress(step=0, total=100, epoch_steps=10, seed=5)
LATER = replace(START, step=40)


def batch_of(samples, locals_=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    stacks = (
        torch.randn(2, samples, 3, 32, 32, generator=draw),
        torch.randn(locals_, samples, 3, 16, 16, generator=draw),
    )
    return TrainBatch(stacks if locals_ else stacks[:1])  # as the loader gives them


def build(config, model=MODEL, seed=0):
    """A recipe whose student has moved away from its teacher, with weights large enough to tell tokens apart."""
    torch.manual_seed(seed)
    recipe = (DinoV2 if isinstance(config, DinoV2Config) else Dino)(model, config)
    with torch.no_grad():
        for tower, seed in ((recipe.student, 1), (recipe.teacher, 2)):
            draw = torch.Generator().manual_seed(seed)
            for parameter in tower.parameters():
                if parameter.ndim > 1:
                    parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return recipe.train()


def run(recipe, batch, progress=LATER):
    recipe.zero_grad()
    output = recipe(batch, progress)
    output.loss.backward()
    return output, {name: p.grad for name, p in recipe.named_parameters() if p.grad is not None}


def cross_entropy(target, logits):
    return -sum(t * p for t, p in zip(target, torch.log_softmax(logits / 0.1, dim=0), strict=True))


def sinkhorn(logits, temperature):
    q = torch.exp(torch.stack(logits).double() / temperature)
    q = q / q.sum()
    for _ in range(3):
        for k in range(q.shape[1]):
            q[:, k] = q[:, k] / q[:, k].sum() / q.shape[1]
        for i in range(q.shape[0]):
            q[i] = q[i] / q[i].sum() / q.shape[0]
    return list((q * q.shape[0]).float())


def koleo(features):
    unit = [f / f.norm() for f in features]
    nearest = [
        max((j for j in range(len(unit)) if j != i), key=lambda j, i=i: unit[i] @ unit[j]) for i in range(len(unit))
    ]
    return -sum(torch.log((unit[i] - unit[j] + 1e-8).norm() + 1e-8) for i, j in enumerate(nearest)) / len(unit)


def teacher_temperature(config, progress):
    warmup = round(config.teacher_temp_epochs * progress.epoch_steps)
    ramp = [
        config.teacher_temp_start + (config.teacher_temp - config.teacher_temp_start) * i / (warmup - 1)
        for i in range(warmup)
    ]
    return ramp[progress.step] if progress.step < warmup else config.teacher_temp


def naive(recipe, batch, progress, masks=None):
    """The losses of one group per `config.group` samples, crop by crop and image by image, by their names."""
    config, samples = recipe.config, range(len(batch))
    views = [view for stack in batch.views for view in stack]
    temperature = teacher_temperature(config, progress)

    def tokens(tower, view, sample, mask=None):
        return tower.backbone.forward_features(views[view][sample][None], mask=None if mask is None else mask[None])[0]

    def targets(logits, centre):
        if centre is None:
            return sinkhorn(logits, temperature)
        return [torch.softmax((z - centre) / temperature, dim=0) for z in logits]

    places = [(view, sample) for view in range(2) for sample in samples]
    with torch.no_grad():
        taught = {place: tokens(recipe.teacher, *place) for place in places}
        logits = [recipe.teacher.dino_head(taught[place][0]) for place in places]
        target = dict(zip(places, targets(logits, centre_of(recipe, "cls")), strict=True))
    seen = {
        (view, sample): tokens(
            recipe.student, view, sample, masks[view, sample] if masks is not None and view < 2 else None
        )
        for view in range(len(views))
        for sample in samples
    }
    losses = {"dino_local": torch.zeros(()), "dino_global": torch.zeros(())}
    pairs = 2 * (len(views) - 2) + 2
    for teacher_view in range(2):
        for view in range(len(views)):
            if view == teacher_view:
                continue
            for sample in samples:
                logits = recipe.student.dino_head(seen[view, sample][0])
                entropy = cross_entropy(target[teacher_view, sample], logits) / len(samples)
                losses["dino_global" if view < 2 else "dino_local"] += entropy / pairs
    if masks is None:
        return losses
    first_patch = 1 + recipe.model.registers
    hidden = [
        (view, sample, patch) for view, sample in places for patch in masks[view, sample].nonzero()[:, 0].tolist()
    ]
    teacher_head = recipe.teacher.ibot_head or recipe.teacher.dino_head
    student_head = recipe.student.ibot_head or recipe.student.dino_head
    with torch.no_grad():
        logits = [teacher_head(taught[view, sample][first_patch + patch]) for view, sample, patch in hidden]
        patch_targets = targets(logits, centre_of(recipe, "patch"))
    losses["ibot"] = torch.zeros(())
    for (view, sample, patch), wanted in zip(hidden, patch_targets, strict=True):
        entropy = cross_entropy(wanted, student_head(seen[view, sample][first_patch + patch]))
        losses["ibot"] += entropy / masks[view, sample].sum() / len(places)
    groups = [samples[start : start + config.group] for start in range(0, len(samples), config.group)]
    losses["koleo"] = sum(
        koleo([seen[view, sample][0] for sample in group]) / len(groups) for view in range(2) for group in groups
    )
    return losses


def centre_of(recipe, kind):
    if isinstance(recipe, Dino):
        return recipe.targets.centre
    return (recipe.cls_targets if kind == "cls" else recipe.patch_targets).centre


def masks_of(recipe, samples, progress):
    """The masks that the recipe draws, as [view, sample, patch]."""
    hidden = hide_patches(recipe.config.masks, (4, 4), samples, recipe.group, progress, torch.device("cpu"))
    return hidden.mask.unflatten(0, (2, samples))


def with_centres(recipe):
    """Give centres that matter."""
    draw = torch.Generator().manual_seed(9)
    for module in recipe.modules():
        if isinstance(module, Targets) and module.centre is not None:
            module.centre.copy_(torch.randn(module.centre.shape, generator=draw) / 10)
    return recipe


def close_gradients(one, other, tolerance=1e-4):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (gradient - other[name]).norm() <= tolerance * other[name].norm() + 1e-7, name
