"""What finding an object costs, as ratios measured in one run: LOST and TokenCut against their papers' steps, one by one.

    python benchmarks/discovery.py [--width 384] [--images 8] [--rounds 7] [--threads 1] [--write benchmarks/results]

Both sides get the same features in memory, and must find the same boxes. Rounds are interleaved and medians of the
processor's time are compared, which a busy machine disturbs less than the clock; both are printed. Goal: LOST five times as
fast as its steps. Half of the Gram matrix has to be computed by any means, so its time is printed too: it bounds the
ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
import torch.nn.functional as F

from vitreg.discovery.lost import lost_batch
from vitreg.discovery.tokencut import tokencut
from vitreg.runtime import provenance

GRIDS = ((28, 28), (30, 40))
GOALS = {"lost": 5.0}

Box = tuple[int, int, int, int]


def around(mask: np.ndarray, seed: int) -> Box:
    labels = np.empty(mask.shape, dtype=np.int32)
    scipy.ndimage.label(mask, output=labels)
    rows, cols = np.nonzero(labels == labels.ravel()[seed])
    return int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1


def literal_lost(features: torch.Tensor, grid: tuple[int, int], k: int = 100) -> Box:
    """LOST as its paper tells it: the Gram matrix, degrees from a cleaned copy, seed, expansion, component."""
    gram = features @ features.T
    links = gram.clone()
    links.fill_diagonal_(0)
    links[links < 0] = 0
    degree = (links > 0).sum(dim=1)
    order = torch.argsort(degree, stable=True)
    seed, potentials = order[0], order[:k]
    similars = potentials[gram[seed, potentials] > 0]
    correlation = gram[similars].sum(dim=0)
    return around((correlation > 0).reshape(grid).numpy(), int(seed))


def literal_tokencut(features: torch.Tensor, grid: tuple[int, int], *, all_vectors: bool = False) -> Box:
    """TokenCut as its paper tells it: the generalised eigenproblem, for all eigenvectors or for the second alone."""
    unit = F.normalize(features, dim=1)
    weights = np.where((unit @ unit.T).numpy() > 0.2, 1.0, 1e-5)
    degree = np.diag(weights.sum(axis=1))
    some = None if all_vectors else [1, 1]
    vector = scipy.linalg.eigh(degree - weights, degree, subset_by_index=some)[1][:, 1 if all_vectors else 0]
    seed = int(np.abs(vector).argmax())
    side = vector > vector.mean()
    if not side[seed]:
        side = ~side
    return around(side.reshape(grid), seed)


def scenes(count: int, grid: tuple[int, int], width: int) -> torch.Tensor:
    """Features [count, N, width] that vary smoothly over an image, as those of photographs do, with noise."""
    draw = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in grid), indexing="ij"), -1).reshape(-1, 2)
    images = []
    for _ in range(count):
        waves = np.cos(places @ draw.uniform(0, 0.3, (2, 6)) + draw.uniform(0, 6, 6))
        images.append(waves @ draw.standard_normal((6, width)) + draw.standard_normal((len(places), width)))
    return torch.from_numpy(np.stack(images)).float()


def compared(work: dict[str, Callable[[], list[Box] | None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median (clock, processor) seconds of each, in turns, after a first round in which all must find the same boxes."""
    found = {name: each() for name, each in work.items()}
    for name, boxes in found.items():
        assert boxes in (found["vitreg"], None), f"{name} finds other boxes"
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, each in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            each()
            times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: (statistics.median(t[0] for t in each), statistics.median(t[1] for t in each))
        for name, each in times.items()
    }


def grams(features: torch.Tensor) -> None:
    for own in features:
        torch.mm(own, own.T)


def measured(grid: tuple[int, int], width: int, images: int, rounds: int) -> dict[str, Any]:
    x = scenes(images, grid, width)
    lost = compared(
        {
            "vitreg": lambda: [found.box for found in lost_batch(x, grid)],
            "literal": lambda: [literal_lost(own, grid) for own in x],
            "Gram matrix alone": lambda: grams(x),
        },
        rounds,
    )
    cut = compared(
        {
            "vitreg": lambda: [tokencut(own, grid).box for own in x[:2]],
            "literal, second vector": lambda: [literal_tokencut(own, grid) for own in x[:2]],
            "literal, all vectors": lambda: [literal_tokencut(own, grid, all_vectors=True) for own in x[:2]],
        },
        max(1, rounds // 2),
    )
    result: dict[str, Any] = {"patches": grid[0] * grid[1]}
    for name, times, count in (("lost", lost, images), ("tokencut", cut, 2)):
        ours = times["vitreg"]
        result[name] = {
            "milliseconds_per_image": {side: round(1e3 * t[0] / count, 2) for side, t in times.items()},
            "ratio": {side: round(t[0] / ours[0], 2) for side, t in times.items() if side != "vitreg"},
            "ratio_of_processor_time": {
                side: round(t[1] / ours[1], 2) for side, t in times.items() if side != "vitreg"
            },
            "goal": GOALS.get(name),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started = datetime.now(UTC)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s) of torch; the dense solvers' are set by OMP_NUM_THREADS")
    result: dict[str, Any] = {"width": options.width, "images": options.images, "threads": options.threads, "grids": []}
    for grid in GRIDS:
        result["grids"].append(measured(grid, options.width, options.images, options.rounds))
        print(json.dumps(result["grids"][-1], indent=1))
    if options.write:
        result["provenance"] = provenance(
            started=started, device=torch.device("cpu"), precision="float32", processes=1
        ).model_dump()
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / f"discovery-cpu-{options.width}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
