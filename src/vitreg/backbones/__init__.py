"""Looking into any Vision Transformer: load it, run it, trace it, edit it."""

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
