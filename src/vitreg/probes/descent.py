"""L-BFGS for smooth convex functions whose values are noisy in the last digits, such as sums in float32.

Steps are accepted by their slopes, which do not suffer from cancellation; the value is only a safeguard (as in Hager
and Zhang 2005).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

Vector = Float64[Tensor, "..."]
Objective = Callable[[Vector], tuple[float, Vector]]

_HISTORY = 5  # pairs of steps and changes of the gradient
_FLAT = 0.9  # largest share of the first slope that may remain after a step (Wolfe's curvature condition)
_NOISE = 1e-5  # relative; a larger rise of the value refuses a step
_TRIES = 20  # lengths tried along one direction


@dataclass(frozen=True, slots=True)
class Minimum:
    """The result of a descent.

    Args:
        steps: taken.
        converged: whether the tolerance was met, rather than the number of steps used up.
    """

    point: Vector
    value: float
    steps: int
    converged: bool


def minimise(objective: Objective, start: Vector, scale: Vector, *, tolerance: float, steps: int) -> Minimum:
    """Descend until the value can fall by no more than about `tolerance` of itself.

    The remaining decrease is estimated as half the slope along the quasi-Newton direction, which is exact for a
    quadratic with the right curvature.

    Args:
        objective: gives value and gradient; the value is positive.
        scale: about the inverse of the second derivative along each coordinate; positive.
        steps: taken at most.
    """
    history: deque[tuple[Vector, Vector, float]] = deque(maxlen=_HISTORY)
    point, (value, gradient) = start, objective(start)
    for step in range(steps + 1):
        direction = _direction(gradient, scale, history)
        slope = _dot(direction, gradient)
        if not slope < -2 * tolerance * value:
            return Minimum(point, value, step, True)
        if step == steps:
            break
        found = _search(objective, point, value, slope, direction)
        if found is None:
            if not history:  # not even along the scaled gradient: the limit of the arithmetic
                break
            history.clear()
            continue
        moved, value, fresh = found
        change, bend = moved - point, fresh - gradient
        if (curvature := _dot(change, bend)) > 0:
            history.append((change, bend, curvature))
        point, gradient = moved, fresh
    return Minimum(point, value, step, False)


def _search(
    objective: Objective, point: Vector, value: float, slope: float, direction: Vector
) -> tuple[Vector, float, Vector] | None:
    """Find a length along the direction where the slope is flatter and the value no larger; bisect by secants."""
    low, high, length = 0.0, float("inf"), 1.0
    for _ in range(_TRIES):
        moved = point + length * direction
        there, gradient = objective(moved)
        now = _dot(direction, gradient)
        rose = not there <= value * (1 + _NOISE)  # NaN counts as risen
        if not rose and abs(now) <= -_FLAT * slope:
            return moved, there, gradient
        secant = length * slope / (slope - now) if now > slope else 4 * length
        if rose or now > 0:
            high = length
            length = min(max(secant, low + 0.1 * (high - low)), low + 0.5 * (high - low))
        else:
            low = length
            length = min(max(secant, 1.5 * low), 4 * low) if high == float("inf") else 0.5 * (low + high)
    return None


def _direction(gradient: Vector, scale: Vector, history: deque[tuple[Vector, Vector, float]]) -> Vector:
    """Return minus the inverse of the approximate Hessian times the gradient (Nocedal and Wright, algorithm 7.4)."""
    left, shares = gradient.clone(), []
    for change, bend, curvature in reversed(history):
        share = _dot(change, left) / curvature
        left.sub_(bend, alpha=share)
        shares.append(share)
    if history:
        _, bend, curvature = history[-1]
        left.mul_(curvature / _dot(bend, scale * bend))
    left.mul_(scale)
    for (change, bend, curvature), share in zip(history, reversed(shares), strict=True):
        left.add_(change, alpha=share - _dot(bend, left) / curvature)
    return left.neg_()


def _dot(a: Vector, b: Vector) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
