"""Synthetic scenes as what verbs read: a set with classes or captions, pictures with maps, images in order, true boxes.

Nothing is kept: each scene is drawn when it is read. Both sides draw from the same generator, from other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from vitreg.data.boxes.truth import BoxSet, ImageBoxes
from vitreg.data.sets.example import Example
from vitreg.data.sets.synthetic import backgrounds
from vitreg.data.sets.synthetic.naming import Side, Synthetic
from vitreg.data.sets.synthetic.scene import CLASSES, Scene, draw_scene, labels_of
from vitreg.data.sources.parts import Listed, Locator
from vitreg.data.sources.pictures import InMemory
from vitreg.errors import UserError

BACKGROUND = "background"
_VALIDATION = 1 << 31  # the first number of the validation side, far above every training image


class Scenes:
    """One side of a synthetic set: item i is scene i of it, drawn anew each time."""

    def __init__(self, synthetic: Synthetic, side: Side) -> None:
        self.synthetic, self.side = synthetic, side
        self._count = synthetic.length(side)
        self._first = _VALIDATION if side == "val" else 0

    def __len__(self) -> int:
        """Count the scenes."""
        return self._count

    def __getitem__(self, index: int) -> Scene:
        """Draw a scene. Raises IndexError."""
        self.check(index)
        return draw_scene(self.synthetic.seed, self._first + index)

    def check(self, index: int) -> None:
        """Raise IndexError where there is no such scene."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")

    def name(self, index: int) -> str:
        """Return what a scene is called; the number of scenes is not part of it."""
        return f"{self.synthetic.title}:{self.side}-{index:05d}"

    def index(self, name: str) -> int | None:
        """Return the scene of a name; None for a name of something else."""
        head, _, number = name.rpartition("-")
        found = head == f"{self.synthetic.title}:{self.side}" and number.isascii() and number.isdecimal()
        return int(number) if found and int(number) < len(self) else None

    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return the classes of all scenes, without drawing them."""
        return labels_of(self.synthetic.seed, self._first + np.arange(len(self), dtype=np.int64))

    @property
    def note(self) -> str:
        """A sentence that says what the images are."""
        return f"The images of {self.synthetic.title} are synthetic: drawn objects before {backgrounds.kind()}."


class SceneSet:
    """Scenes with their class, or with their caption.

    Args:
        captions: targets are captions instead of classes.
        classes: of the training side, in whose order classes are numbered.
    Raises:
        UserError: if these lack a class of the scenes.
    """

    def __init__(self, scenes: Scenes, *, captions: bool = False, classes: Sequence[str] | None = None) -> None:
        self._scenes, self._captions = scenes, captions
        names = CLASSES if classes is None else tuple(classes)
        missing = [name for name in CLASSES if name not in names]
        if missing and not captions:
            raise UserError(
                f"'{scenes.synthetic.title}' has the class '{missing[0]}', which the training side has not."
            )
        self.classes: tuple[str, ...] | None = None if captions else names
        self.labels: Int64[np.ndarray, " n"] | None = None
        if not captions:
            self.labels = np.array([names.index(name) for name in CLASSES])[scenes.labels()]
        self.notes: tuple[str, ...] = (scenes.note,)

    def __len__(self) -> int:
        """Count the scenes."""
        return len(self._scenes)

    def read(self, index: int) -> Example:
        """Draw one scene."""
        scene = self._scenes[index]
        if self._captions:
            return Example(scene.image, [scene.caption])
        assert self.labels is not None
        return Example(scene.image, int(self.labels[index]))

    def name(self, index: int) -> str:
        """Return what a scene is called."""
        return self._scenes.name(index)


class Drawn(Protocol):
    """One side of a synthetic set, whatever its images show."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Draw one: its `image`, and what is true of it. Raises IndexError."""
        ...

    def check(self, index: int) -> None:
        """Raise IndexError where there is no such image."""
        ...

    def name(self, index: int) -> str:
        """Return what an image is called."""
        ...

    @property
    def note(self) -> str:
        """A sentence that says what the images are."""
        ...


class _Images:
    def __init__(self, scenes: Drawn) -> None:
        self._scenes = scenes

    def __getitem__(self, index: int) -> Image.Image:
        return self._scenes[index].image


class Locators(Sequence[Locator]):
    """Where each image of a side is, without a list of them."""

    def __init__(self, scenes: Drawn) -> None:
        self._scenes, self._images = scenes, _Images(scenes)

    def __len__(self) -> int:
        return len(self._scenes)

    @overload
    def __getitem__(self, index: int) -> Locator: ...
    @overload
    def __getitem__(self, index: slice) -> list[Locator]: ...
    def __getitem__(self, index: int | slice) -> Locator | list[Locator]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        self._scenes.check(index)
        return InMemory(self._scenes.name(index), self._images, index)


class SceneBoxes(BoxSet):
    """The boxes of scenes, found by drawing them."""

    def __init__(self, scenes: Scenes) -> None:
        first = ImageBoxes(scenes.name(0), None, np.array(scenes[0].boxes, np.float64), ())
        super().__init__(scenes.synthetic.title, "boxes of the drawn objects", [first])
        self._scenes = scenes

    def __len__(self) -> int:
        """Count the scenes."""
        return len(self._scenes)

    def find(self, name: str) -> ImageBoxes | None:
        """Return the boxes of a scene; None for another image."""
        index = self._scenes.index(name)
        if index is None:
            return None
        scene = self._scenes[index]
        boxes = np.array(scene.boxes, np.float64).reshape(-1, 4)
        return ImageBoxes(name, scene.instances.shape, boxes, (CLASSES[scene.label],) * len(boxes))


class ScenePairs:
    """Scenes with a map each, see `example.Pairs`; `limit` of them at most, spread evenly."""

    classes: tuple[str, ...] | None = None
    labels = None

    def __init__(self, scenes: Scenes, limit: int | None = None) -> None:
        self._scenes, self.notes = scenes, (scenes.note,)
        self.title = f"{scenes.synthetic.title} {scenes.side}"
        self._count = len(scenes) if limit is None else min(limit, len(scenes))

    def __len__(self) -> int:
        """Count the pairs."""
        return self._count

    def _place(self, index: int) -> int:
        return index * len(self._scenes) // self._count

    def scene(self, index: int) -> Scene:
        """Draw one scene."""
        return self._scenes[self._place(index)]

    def read(self, index: int) -> Example:
        """Draw one picture."""
        return Example(self.scene(index).image)

    def name(self, index: int) -> str:
        """Return what a scene is called."""
        return self._scenes.name(self._place(index))

    def map_name(self, index: int) -> str:
        """Return what its map is called."""
        return self.name(index)

    def empty(self, values: np.ndarray) -> str:
        """Say that something can be learned from every map."""
        return ""


class SceneMasks(ScenePairs):
    """Scenes with a class for every pixel."""

    names: tuple[str, ...] = (BACKGROUND, *CLASSES)
    classes = names

    def map(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the class of every pixel."""
        return self.scene(index).classes


class SceneDepths(ScenePairs):
    """Scenes with a distance for every pixel."""

    def map(self, index: int) -> Float32[np.ndarray, "H W"]:
        """Return the distance of every pixel in metres."""
        return self.scene(index).depth


def listed(drawn: Drawn) -> Listed:
    """Return the images of a side, in order."""
    return Listed(Locators(drawn), (drawn.note,))
