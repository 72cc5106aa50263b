"""Entries in the list of verbs for `eval` and `train`, whose flags depend on the task or preset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure a model's features by a task, beside controls that must be worse. `vitreg eval` lists the tasks.

    Example: vitreg eval timm:deit_tiny_patch16_224 knn imagenette2-320/

    Every setting of a task: vitreg eval SPEC TASK --help
    """


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ViT with registers: DeiT-III, CLIP, DINOv2, DINO or MAE. `vitreg train` alone lists the presets.

    Example: vitreg train deit3-imagenette-cpu --data.root imagenette-128 --model.registers 4 --out runs/deit3-reg4

    Every setting: vitreg train PRESET --help
    """
