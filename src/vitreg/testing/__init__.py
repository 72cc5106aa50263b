"""Public conformance suites for your own models, recipes and detectors; they raise AssertionError at the first broken promise."""

from vitreg.testing.backbones import check_backbone
from vitreg.testing.detectors import check_detector
from vitreg.testing.recipes import check_recipe

__all__ = ["check_backbone", "check_detector", "check_recipe"]
