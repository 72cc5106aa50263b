"""Colours of a look: two perceptually uniform tables, held here because importing matplotlib for them takes half a second."""

from __future__ import annotations

from functools import cache

import numpy as np

INK, MUTED, RULE, EMPTY, PAPER = (26, 26, 30), (102, 104, 112), (222, 223, 228), (240, 240, 243), (255, 255, 255)
ACCENT = (0, 214, 255)
"""Outlines the second group; neither table has it."""
# Each 33 of 256 colours; those between lie on straight lines, off by at most 2 of 255.
MAGMA = (
    "0000040303120a0822130d341d114729115a36106b440f7651127c5d177f6a1c81762181832681902a819c2e7faa337db73779c23b75"
    "cf4070db476ae55064ee5b5ef4695cf9785dfb8761fd9668fea571feb47bfec287fed194fde0a1fceeb0fcfdbf"
)
VIRIDIS = (
    "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c1f978b"
    "1f9f8821a68527ad8131b57b3dbc744cc26c5cc8636ece5881d34d95d840aadc32c0df25d5e21aeae51afde725"
)


@cache
def table(held: str) -> np.ndarray:
    """Return the 256 colours of `MAGMA` or `VIRIDIS`, uint8 [256, 3]."""
    colours = np.frombuffer(bytes.fromhex(held), np.uint8).reshape(-1, 3)
    places = np.rint(np.linspace(0, 255, len(colours)))
    between = [np.interp(np.arange(256), places, colours[:, channel]) for channel in range(3)]
    return np.rint(np.stack(between, 1)).astype(np.uint8)


def coloured(shares: np.ndarray, held: str) -> np.ndarray:
    """Return values in 0..1 as colours, uint8 [..., 3]; NaN is `EMPTY`, and what lies outside has the colour of that end."""
    steps = np.rint(255 * np.clip(np.nan_to_num(shares, nan=0.0), 0, 1)).astype(np.uint8)
    return np.where(np.isnan(shares)[..., None], np.array(EMPTY, np.uint8), table(held)[steps])
