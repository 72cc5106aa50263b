"""What finding an object costs, as ratios measured in one run: LOST and TokenCut against their papers' steps, one by one.

    python benchmarks/discovery.py [--width 384] [--images 8] [--rounds 7] [--threads 1] [--write benchmarks/results]
        [--photographs DIR --spec timm:deit_tiny_patch16_224 --weights FILE]

Both sides get the same features in memory, and must find the same boxes. Rounds are interleaved and medians of the
processor's time are compared, which a busy machine disturbs less than the clock; both are printed. Goal: LOST five times as
fast as its steps. Half of the Gram matrix is computed in float32 whatever else is saved, so the time of that alone is
printed too: it bounds the ratio. Beside made features, LOST is measured on a model's last keys.
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
from PIL import Image

from vitreg.backbones import load
from vitreg.discovery.features import NORMALIZE, prepare
from vitreg.discovery.lost import lost_batch
from vitreg.discovery.tokencut import tokencut
from vitreg.machine.runtime import provenance
from vitreg.verbs.discover.model import DiscoverModel

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


def keys(folder: Path, spec: str, weights: Path | None, count: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """The last block's keys [count, N, width] of the first so many photographs that share a grid."""
    model = DiscoverModel(load(spec, weights=weights), None)
    found: dict[tuple[int, int], list[torch.Tensor]] = {}
    for path in sorted(folder.glob("*.jpg")):
        features, grid = model.features(model.prepare(Image.open(path).convert("RGB")), [("k", -1)])
        alike = found.setdefault(grid, [])
        alike += features.values()
        if len(alike) == count:
            return torch.stack(alike), grid
    raise SystemExit(f"{folder} holds fewer than {count} photographs (*.jpg) of one size")


def half_grams(features: torch.Tensor, block: int = 128) -> None:
    for own in features:
        for start in range(0, len(own), block):
            torch.mm(own[start : start + block], own[start:].T)


def measured_lost(x: torch.Tensor, grid: tuple[int, int], rounds: int) -> dict[str, Any]:
    times = compared(
        {
            "vitreg": lambda: [found.box for found in lost_batch(x, grid)],
            "literal": lambda: [literal_lost(own, grid) for own in x],
            "half of the Gram matrix alone": lambda: half_grams(x),
        },
        rounds,
    )
    return {**summary(times, len(x)), "goal": GOALS["lost"]}


def measured_tokencut(x: torch.Tensor, grid: tuple[int, int], rounds: int) -> dict[str, Any]:
    times = compared(
        {
            "vitreg": lambda: [tokencut(own, grid).box for own in x],
            "literal, second vector": lambda: [literal_tokencut(own, grid) for own in x],
            "literal, all vectors": lambda: [literal_tokencut(own, grid, all_vectors=True) for own in x],
        },
        rounds,
    )
    return summary(times, len(x))


def summary(times: dict[str, tuple[float, float]], count: int) -> dict[str, Any]:
    ours = times["vitreg"]
    return {
        "milliseconds_per_image": {side: round(1e3 * t[0] / count, 2) for side, t in times.items()},
        "processor_milliseconds_per_image": {side: round(1e3 * t[1] / count, 2) for side, t in times.items()},
        "ratio": {side: round(t[0] / ours[0], 2) for side, t in times.items() if side != "vitreg"},
        "ratio_of_processor_time": {side: round(t[1] / ours[1], 2) for side, t in times.items() if side != "vitreg"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--photographs", type=Path, help="also on a model's keys of the photographs in this folder")
    parser.add_argument("--spec", default="timm:deit_tiny_patch16_224")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started = datetime.now(UTC)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s) of torch; the dense solvers' are set by OMP_NUM_THREADS")
    result: dict[str, Any] = {"width": options.width, "images": options.images, "threads": options.threads, "grids": []}
    for grid in GRIDS:
        x = scenes(options.images, grid, options.width)
        lost, cut = measured_lost(x, grid, options.rounds), measured_tokencut(x[:2], grid, max(1, options.rounds // 2))
        result["grids"].append({"patches": x.shape[1], "lost": lost, "tokencut": cut})
        print(json.dumps(result["grids"][-1], indent=1))
    if options.photographs:
        x, grid = keys(options.photographs, options.spec, options.weights, options.images)
        result["keys"] = {"model": options.spec, "patches": x.shape[1], "width": x.shape[2]}
        for way in NORMALIZE:
            result["keys"][way] = measured_lost(prepare(x, way), grid, options.rounds)
        print(json.dumps(result["keys"], indent=1))
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
