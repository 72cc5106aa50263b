"""The verbs that measure what features are good for: eval, extract and discover."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure what a model's features are good for, beside controls that must be worse. `vitreg eval` alone lists the tasks.

    Example: vitreg eval timm:deit_tiny_patch16_224 knn imagenette2-320/
    Every setting of a task: vitreg eval SPEC TASK --help
    """
