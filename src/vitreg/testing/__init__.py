"""Public conformance suites for your own models, recipes, detectors, repairs and tasks; AssertionError names the first broken promise."""

from vitreg.testing.backbones import check_backbone
from vitreg.testing.detectors import check_detector
from vitreg.testing.recipes import check_recipe
from vitreg.testing.repairs import check_repair
from vitreg.testing.tasks import check_task

__all__ = ["check_backbone", "check_detector", "check_recipe", "check_repair", "check_task"]
