"""`vitreg version`, and entries in the list of verbs for `eval`, `fix` and `train`, whose flags depend on the task, method or preset."""

from __future__ import annotations

from dataclasses import dataclass

from vitreg import __version__


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure a model's features by a task, beside controls that must be worse. `vitreg eval` lists the tasks.

    Example: vitreg eval timm:deit_tiny_patch16_224 knn imagenette2-320/

    Every setting of a task: vitreg eval SPEC TASK --help
    """


@dataclass(frozen=True, kw_only=True)
class Fix:
    """Repair a model you have, with or without training, judged on images it was not fitted on. `vitreg fix` lists the methods.

    Example: vitreg fix test-time timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed

    Every setting of a method: vitreg fix METHOD --help
    """


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ViT with registers: DeiT-III, CLIP, DINOv2, DINO or MAE. `vitreg train` alone lists the presets.

    Example: vitreg train deit3-imagenette-cpu --data.root imagenette-128 --model.registers 4 --out runs/deit3-reg4

    Every setting: vitreg train PRESET --help
    """


@dataclass(frozen=True)
class Version:
    """Print the version."""

    def check(self) -> None:
        """Nothing to refuse."""

    def __call__(self) -> int:
        """Print it. Returns the exit code."""
        print(f"vitreg {__version__}")
        return 0
