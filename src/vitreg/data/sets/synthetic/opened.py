"""A synthetic set by what is asked of it: whole images, images in order, or images with maps."""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.data.sets.example import Pairs, TrainingSet
from vitreg.data.sets.synthetic import scene, tilings
from vitreg.data.sets.synthetic.drawn import listed
from vitreg.data.sets.synthetic.naming import DRAWN_SIDES, Side, Synthetic
from vitreg.data.sets.synthetic.scenes import BACKGROUND, SceneDepths, SceneMasks, Scenes, SceneSet
from vitreg.data.sets.synthetic.tilings import TilingMasks, TilingNumbers, Tilings, TilingSet
from vitreg.data.sources.parts import Listed
from vitreg.errors import UserError


def images_of(synthetic: Synthetic) -> Listed:
    """Return the images of the training side, in order."""
    return listed(Tilings(synthetic, "train") if synthetic.name == "retrieval" else Scenes(synthetic, "train"))


def training_set(
    synthetic: Synthetic, side: Side, *, captions: bool = False, classes: Sequence[str] | None = None
) -> TrainingSet:
    """Return one side with classes, or with captions.

    Args:
        classes: of the training side, in whose order they are numbered.
    Raises:
        UserError: for captions of a set without any.
    """
    if synthetic.name == "scenes":
        return SceneSet(Scenes(synthetic, side), captions=captions, classes=classes)
    if captions:
        raise UserError(f"'{synthetic.title}' has no captions; synthetic:scenes has.")
    return TilingSet(Tilings(synthetic, side))


def mask_sides(synthetic: Synthetic, limit: int | None) -> tuple[Pairs, Pairs, tuple[str, ...]]:
    """Return both sides with a class for every pixel, and the names of the classes."""
    if synthetic.name == "scenes":
        train, val = (SceneMasks(Scenes(synthetic, side), limit) for side in DRAWN_SIDES)
        return train, val, (BACKGROUND, *scene.CLASSES)
    train, val = (TilingMasks(Tilings(synthetic, side), limit=limit) for side in DRAWN_SIDES)
    return train, val, tilings.CLASSES


def depth_sides(synthetic: Synthetic, limit: int | None) -> tuple[Pairs, Pairs]:
    """Return both sides with a distance for every pixel.

    Raises:
        UserError: for a set without distances.
    """
    if synthetic.name != "scenes":
        raise UserError(f"'{synthetic.title}' has no distances; synthetic:scenes has.")
    train, val = (SceneDepths(Scenes(synthetic, side), limit) for side in DRAWN_SIDES)
    return train, val


def number_sides(synthetic: Synthetic) -> tuple[TrainingSet, TrainingSet]:
    """Return both sides with numbers for every tile as targets.

    Raises:
        UserError: for a set without them.
    """
    if synthetic.name != "retrieval":
        raise UserError(f"'{synthetic.title}' has no numbers for patches; synthetic:retrieval has.")
    train, val = (TilingNumbers(Tilings(synthetic, side)) for side in DRAWN_SIDES)
    return train, val
