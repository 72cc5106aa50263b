"""One synthetic scene: objects of one class before a background, and everything that is true of it.

A scene is a function of a seed and a number. Its class follows from a hash, so that a set knows all classes without
drawing anything; the rest is drawn from a generator of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from vitreg.data.sets.synthetic.backgrounds import background
from vitreg.data.sets.synthetic.shapes import COLOURS, SHAPES, TEXTURES

Box = tuple[int, int, int, int]
CLASSES = tuple(SHAPES)
_USUAL = 0.7  # share of the scenes whose objects have the colour, and of those that have the texture, of their class
_SIDES = (12, 19)  # sixteenths of the sides in pixels: 192 to 288
_FAR, _MIDDLE = 9.0, 5.0  # metres, of the background at the top and at the bottom
_NEAR = 0.5  # metres, of an object whose radius is the short side; all of them are nearer than _MIDDLE
_SIZES = {1: (0.2, 0.34), 2: (0.15, 0.23), 3: (0.12, 0.19)}  # radius over the short side, by the number of objects
_SMALL, _LARGE = 0.24, 0.29
_NUMBERS = ("", "a", "two", "three")
_PLURAL = {"cross": "crosses"}
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and the truth about it.

    Attributes:
        label: number of the class in `CLASSES`, which all objects share.
        instances: 0 for the background, 1 to n for the object that covers most of the pixel.
        boxes: [x0, y0, x1, y1] of each object in pixels, half-open.
        depth: metres.
    """

    image: Image.Image
    label: int
    instances: UInt8[np.ndarray, "H W"]
    boxes: tuple[Box, ...]
    depth: Float32[np.ndarray, "H W"]
    caption: str

    @property
    def classes(self) -> UInt8[np.ndarray, "H W"]:
        """Class of every pixel: 0 for the background, 1 + label on an object."""
        return np.where(self.instances > 0, np.uint8(1 + self.label), np.uint8(0))


@dataclass(frozen=True, slots=True)
class _Object:
    """Where an object lies, in pixels and radians, and what it looks like."""

    x: float
    y: float
    radius: float
    turned: float
    colour: np.ndarray
    other: np.ndarray
    texture: str
    period: float
    slant: float


def labels_of(seed: int, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the classes of scenes. Each eight that begin at a multiple of 8 have all classes, in any order."""
    group, place = numbers.astype(np.uint64) // np.uint64(8), numbers % 8
    with np.errstate(over="ignore"):
        mixed = _mixed(group + _mixed(np.full(1, seed, np.uint64)))
    step, first = 2 * (mixed & np.uint64(3)).astype(np.int64) + 1, (mixed >> np.uint64(8)).astype(np.int64)
    return (place * step + first) % 8


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def draw_scene(seed: int, number: int) -> Scene:
    """Draw one scene, the same for ever: its neighbours, their number, and what lies behind do not matter."""
    draw, behind = (np.random.Generator(np.random.PCG64([seed, number, part])) for part in (0, 1))
    label = int(labels_of(seed, np.array([number]))[0])
    height, width = (16 * int(side) for side in draw.integers(*_SIDES, 2))
    pixels = background(behind, height, width).astype(np.float32)
    depth = np.repeat(np.linspace(_FAR, _MIDDLE, height, dtype=np.float32)[:, None], width, axis=1)
    instances = np.zeros((height, width), np.uint8)
    colour, texture = _usual(draw, label, COLOURS), _usual(draw, label, TEXTURES)
    objects = _placed(draw, height, width, colour, texture)
    boxes = tuple(_paint(each, place, label, pixels, depth, instances) for place, each in enumerate(objects, start=1))
    image = Image.fromarray((pixels + 0.5).astype(np.uint8))
    return Scene(image, label, instances, boxes, depth, _caption(objects, boxes, label, colour, texture, height, width))


def _usual(draw: np.random.Generator, label: int, words: Mapping[str, object]) -> str:
    """Choose the word that is usual for a class, or any."""
    usual, lot = draw.random() < _USUAL, draw.integers(len(words))
    return list(words)[label % len(words) if usual else lot]


def _placed(draw: np.random.Generator, height: int, width: int, colour: str, texture: str) -> list[_Object]:
    """Place one to three objects, none of which touches another or the border; what finds no place is left out."""
    count = int(draw.choice((1, 2, 3), p=(0.6, 0.25, 0.15)))
    short = min(height, width)
    own = np.clip(np.array(COLOURS[colour]) + draw.uniform(-12, 12, 3), 0, 255)
    other = 0.3 * own if draw.random() < 0.5 else 0.35 * own + 0.65 * 255
    period = draw.uniform(0.05, 0.09) * short
    placed: list[_Object] = []
    for _ in range(_TRIES):
        radius = draw.uniform(*_SIZES[count]) * short
        x, y = (draw.uniform(radius + 1, side - radius - 1) for side in (width, height))
        turned, slant = draw.uniform(0, 2 * np.pi, 2)
        if all(np.hypot(x - each.x, y - each.y) > radius + each.radius + 2 for each in placed):
            placed.append(_Object(x, y, radius, turned, own, other, texture, period, slant))
        if len(placed) == count:
            break
    return placed


def _paint(thing: _Object, place: int, label: int, pixels: np.ndarray, depth: np.ndarray, instances: np.ndarray) -> Box:
    """Paint an object into a scene. Returns its box."""
    left, top = int(thing.x - thing.radius), int(thing.y - thing.radius)
    right, bottom = int(np.ceil(thing.x + thing.radius)), int(np.ceil(thing.y + thing.radius))
    dx, dy = np.arange(left, right)[None] + 0.5 - thing.x, np.arange(top, bottom)[:, None] + 0.5 - thing.y
    cos, sin = np.cos(thing.turned), np.sin(thing.turned)
    x, y = (cos * dx + sin * dy) / thing.radius, (cos * dy - sin * dx) / thing.radius
    covered = np.clip(0.5 - SHAPES[CLASSES[label]](x, y) * thing.radius, 0, 1)[..., None]  # anti-aliased
    cos, sin = np.cos(thing.slant) / thing.period, np.sin(thing.slant) / thing.period
    own = TEXTURES[thing.texture](cos * dx + sin * dy, cos * dy - sin * dx)[..., None]
    light = 1 - 0.2 * (dx + dy)[..., None] / (2 * thing.radius)
    painted = np.clip((own * thing.colour + (1 - own) * thing.other) * light, 0, 255)
    here = np.s_[top:bottom, left:right]
    pixels[here] += covered * (painted - pixels[here])
    inside = covered[..., 0] > 0.5
    instances[here][inside] = place
    distance = _NEAR * min(instances.shape) / thing.radius * (1 - 0.05 * (1 - x**2 - y**2))  # domed towards the eye
    depth[here][inside] = distance[inside]
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return (left + int(cols[0]), top + int(rows[0]), left + int(cols[-1]) + 1, top + int(rows[-1]) + 1)


def _caption(
    objects: list[_Object], boxes: Sequence[Box], label: int, colour: str, texture: str, height: int, width: int
) -> str:
    """Say what is to be seen."""
    shape, look = CLASSES[label], f"{colour} {texture}"
    if len(objects) > 1:
        return f"{_NUMBERS[len(objects)]} {look} {_PLURAL.get(shape, f'{shape}s')}"
    thing = objects[0]
    size = thing.radius / min(height, width)
    words = f"small {look}" if size < _SMALL else f"large {look}" if size > _LARGE else look
    x0, y0, x1, y1 = boxes[0]
    across = ("left", "", "right")[int(1.5 * (x0 + x1) / width)]
    along = ("upper", "", "lower")[int(1.5 * (y0 + y1) / height)]
    place = " ".join(filter(None, (along, across))) or "centre"
    place = {"upper": "top", "lower": "bottom"}.get(place, place)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} {shape} at the {place}"
