"""Images of `synthetic:scenes` as what verbs read: a set with classes or captions, pictures with maps, true boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from vitreg.data.boxes.truth import BoxSet, ImageBoxes
from vitreg.data.sets.example import Example
from vitreg.data.sets.synthetic import backgrounds
from vitreg.data.sets.synthetic.canvases import on_canvas
from vitreg.data.sets.synthetic.drawn import Drawn, DrawnSet
from vitreg.data.sets.synthetic.scene import CLASSES, Scene, draw_scene, labels_of
from vitreg.errors import UserError

BACKGROUND = "background"


class Scenes(Drawn[Scene]):
    """One side of a set."""

    def draw(self, number: int) -> Scene:
        """Draw the scene of a number."""
        scene, canvas = draw_scene(self.synthetic.seed, number), self.synthetic.canvas
        return on_canvas(scene, canvas) if canvas else scene

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
        on = f", on a canvas ({self.synthetic.canvas})" if self.synthetic.canvas else ""
        return f"The images of {self.synthetic.title} are synthetic: drawn objects before {backgrounds.kind()}{on}."


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


class SceneMasks(DrawnSet[Scene]):
    """Scenes with a class for every pixel."""

    names: tuple[str, ...] = (BACKGROUND, *CLASSES)
    classes = names

    def map(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the class of every pixel."""
        return self.drawn(index).classes


class SceneDepths(DrawnSet[Scene]):
    """Scenes with a distance for every pixel."""

    def map(self, index: int) -> Float32[np.ndarray, "H W"]:
        """Return the distance of every pixel in metres."""
        return self.drawn(index).depth
