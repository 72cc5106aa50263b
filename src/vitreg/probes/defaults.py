"""Defaults of published evaluations, for settings that must not load a probe. No torch here."""

from __future__ import annotations

KS = (10, 20, 100, 200)
"""Numbers of neighbours of DINOv2's kNN."""
TEMPERATURE = 0.07
"""Of the softmax that weighs the votes of neighbours."""
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Learning rates of DINOv2's code, for a batch of 256; its paper lists others, 1e-4 to 0.5."""


def grid() -> tuple[float, ...]:
    """Return the values of C in DINOv2's evaluation, as NumPy computes them: Python's powers differ in their last bits."""
    import numpy as np

    return tuple(float(c) for c in 10 ** np.linspace(-6, 5, 45))
