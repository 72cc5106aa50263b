"""Public conformance suites for your own models and recipes; they raise AssertionError at the first broken promise."""

from vitreg.testing.backbones import check_backbone
from vitreg.testing.recipes import check_recipe

__all__ = ["check_backbone", "check_recipe"]
