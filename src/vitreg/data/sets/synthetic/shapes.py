"""Outlines and textures of the objects in synthetic scenes, as functions of pixel coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "h w"]


def _polygon(sides: int, x: Plane, y: Plane) -> Plane:
    sector = 2 * np.pi / sides
    turned = (np.arctan2(y, x) % sector) - sector / 2
    return np.hypot(x, y) * np.cos(turned) - np.cos(sector / 2)


def _star(x: Plane, y: Plane) -> Plane:
    sector = 2 * np.pi / 5
    turned = np.abs(np.arctan2(y, x) % sector - sector / 2)  # 0 at a notch, sector / 2 at a point
    along, across = np.hypot(x, y) * np.cos(turned), np.hypot(x, y) * np.sin(turned)
    # The edge runs from the notch, 0.42 from the centre, to the point, 1 from it.
    tip = np.array([np.cos(sector / 2) - 0.42, np.sin(sector / 2)])
    return ((along - 0.42) * tip[1] - across * tip[0]) / np.hypot(*tip)


def _cross(x: Plane, y: Plane) -> Plane:
    long, wide = 0.92, 0.36
    bars = (np.maximum(np.abs(a) - long, np.abs(b) - wide) for a, b in ((x, y), (y, x)))
    return np.minimum(*bars)


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: _polygon(4, x, y),
    "triangle": lambda x, y: _polygon(3, x, y),
    "star": _star,
    "flower": lambda x, y: (np.hypot(x, y) - 0.75 - 0.25 * np.cos(6 * np.arctan2(y, x))) / 1.5,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    "cross": _cross,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.5, y)),
}
"""By class: distance to the outline, negative inside, about right near it; all lie in the circle of radius 1."""


def _speckles(u: Plane, v: Plane) -> Plane:
    cells = (np.floor(2 * u).astype(np.int64) * 73856093) ^ (np.floor(2 * v).astype(np.int64) * 19349663)
    mixed = (cells ^ (cells >> 13)) * 1274126177
    return ((mixed ^ (mixed >> 16)) & 255) / 255.0


TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "striped": lambda u, v: _steep(np.sin(2 * np.pi * u)),
    "checked": lambda u, v: _steep(2 * np.sin(np.pi * u) * np.sin(np.pi * v)),
    "dotted": lambda u, v: _steep(4 * (np.hypot(u % 1 - 0.5, v % 1 - 0.5) - 0.3)),
    "speckled": _speckles,
}
"""By its word: how much of the object's own colour stands at a place, 0 to 1, where one period has length 1."""

COLOURS = {
    "red": (220, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (235, 220, 50),
    "green": (50, 170, 60),
    "cyan": (60, 205, 215),
    "blue": (45, 80, 215),
    "purple": (140, 60, 190),
    "pink": (240, 120, 180),
}


def _steep(wave: Plane) -> Plane:
    """Make an edge of a wave, one that is not sharper than pixels show."""
    return np.clip(0.5 + 1.5 * wave, 0, 1)
