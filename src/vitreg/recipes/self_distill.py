"""Training without labels, where the paper finds artifacts (DINOv2) and where it finds none (DINO): the door to both."""

from vitreg.recipes.dino import Dino, DinoConfig
from vitreg.recipes.dinov2 import DinoV2, DinoV2Config

__all__ = ["Dino", "DinoConfig", "DinoV2", "DinoV2Config"]
