"""Looking into any Vision Transformer: load it, run it, trace it."""

from vitreg.backbones.anatomy import Anatomy, describe
from vitreg.backbones.backbone import AttentionStatus, Backbone
from vitreg.backbones.load import load
from vitreg.backbones.trace import QKV, Capture, Edit, Trace

__all__ = ["QKV", "Anatomy", "AttentionStatus", "Backbone", "Capture", "Edit", "Trace", "describe", "load"]
