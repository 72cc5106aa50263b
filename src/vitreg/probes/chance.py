"""Exact scores of random guessing."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from jaxtyping import Int


def recall_by_chance(image_of: Int[np.ndarray, " T"], images: int, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return the expected recall at k of random similarities, in percent, under the names of `probes.retrieval.recall`.

    An image with m of T captions is found if one of its m is among k drawn without replacement.

    Args:
        image_of: for every caption the index of its image.
        images: how many there are.
    """
    captions = len(image_of)
    own, how_often = np.unique(np.bincount(image_of, minlength=images), return_counts=True)
    result = {}
    for k in ks:
        missed = [comb(captions - m, min(k, captions)) / comb(captions, min(k, captions)) for m in own.tolist()]
        result[f"image_to_text_r{k}"] = 100 * float(1 - np.average(missed, weights=how_often))
        result[f"text_to_image_r{k}"] = 100 * min(k, images) / images
    return result


def derangement(count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return a random permutation of 0 ... n - 1 without fixed points (for n = 1, the identity)."""
    order = np.random.default_rng(seed).permutation(count)
    moved = np.empty_like(order)
    moved[order] = np.roll(order, 1)  # one cycle through all
    return moved
