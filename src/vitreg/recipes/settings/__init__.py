"""The settings of every recipe of vitreg and of the optimiser: importing them registers the recipes. No torch here."""

from vitreg.recipes.settings.clip import ClipConfig
from vitreg.recipes.settings.mae import MaeConfig
from vitreg.recipes.settings.masks import MaskConfig
from vitreg.recipes.settings.optim import OptimConfig
from vitreg.recipes.settings.regression import RegressionConfig
from vitreg.recipes.settings.self_distill import DinoConfig, DinoV2Config
from vitreg.recipes.settings.supervised import SupervisedConfig

__all__ = [
    "ClipConfig",
    "DinoConfig",
    "DinoV2Config",
    "MaeConfig",
    "MaskConfig",
    "OptimConfig",
    "RegressionConfig",
    "SupervisedConfig",
]
