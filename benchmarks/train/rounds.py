"""Pieces of work timed in turns: interleaved rounds, so that a machine whose speed drifts slows all of them alike.

A round gives every piece once, in an order that turns round from one to the next. Ratios are formed within each round.
On a CPU the processor time of this process is kept beside the wall clock: others on the machine disturb it far less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of every round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> tuple[float, float]:
    """Wall clock and processor time of one piece of work."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(pieces: Mapping[str, Work], device: torch.device, rounds: int, warm: int = 2) -> dict[str, Times]:
    """Time every piece `rounds` times, after `warm` rounds that do not count."""
    times = {name: Times() for name in pieces}
    for number in range(warm + rounds):
        for name in list(pieces) if number % 2 else list(pieces)[::-1]:
            wall, cpu = seconds(pieces[name], device)
            if number >= warm:
                times[name].wall.append(wall)
                times[name].cpu.append(cpu)
    return times


def compared(times: Mapping[str, Times], ours: str, peer: str, images: int) -> dict[str, Any]:
    """What two pieces cost, and how many times as fast ours is.

    Args:
        times: of `in_turns`.
        images: that one piece of work handles.
    """
    mine, theirs = times[ours], times[peer]

    def ratio(numbers: list[float], others: list[float]) -> float:
        return round(statistics.median(b / a for a, b in zip(numbers, others, strict=True)), 3)

    return {
        "ratio": ratio(mine.wall, theirs.wall),
        "ratio_of_least": round(min(theirs.wall) / min(mine.wall), 3),
        "ratio_of_processor_time": ratio(mine.cpu, theirs.cpu),
        "images_per_second": {name: round(images / statistics.median(times[name].wall), 2) for name in (ours, peer)},
        "median_ms": {name: milliseconds(statistics.median(times[name].wall)) for name in (ours, peer)},
        "least_ms": {name: milliseconds(min(times[name].wall)) for name in (ours, peer)},
        "processor_ms": {name: milliseconds(statistics.median(times[name].cpu)) for name in (ours, peer)},
        "rounds_ms": {name: [milliseconds(t) for t in times[name].wall] for name in (ours, peer)},
    }


def milliseconds(t: float) -> float:
    return round(1e3 * t, 2)
