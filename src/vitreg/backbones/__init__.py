"""Looking into any Vision Transformer: load it, run it, trace it, edit it."""

import warnings
from typing import Any

from vitreg.backbones.anatomy.find import Anatomy, find_anatomy, register
from vitreg.backbones.backbone import AttentionStatus, Backbone
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.loading.load import load
from vitreg.backbones.trace import QKV, Capture, Trace

__all__ = [
    "QKV",
    "Anatomy",
    "AttentionStatus",
    "Backbone",
    "Capture",
    "Edit",
    "Place",
    "Trace",
    "find_anatomy",
    "load",
    "register",
]


def __getattr__(name: str) -> Any:
    """Go on giving `find_anatomy` under the name it had in 0.1.0."""
    if name != "describe":
        raise AttributeError(f"module 'vitreg.backbones' has no attribute '{name}'")
    warnings.warn("vitreg.backbones.describe is called find_anatomy now", DeprecationWarning, stacklevel=2)
    return find_anatomy
