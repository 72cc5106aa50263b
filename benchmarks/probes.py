"""What probes on frozen features cost, as ratios measured in one run, and how much memory the largest sets take.

    python benchmarks/probes.py [--only knn logistic linear] [--rounds 5] [--write benchmarks/results]
    python benchmarks/probes.py --memory [--images 1200000] [--write benchmarks/results]

kNN is compared with the bare matrix product of queries and bank, logistic regression with 45 fits of scikit-learn on the
same features, the grid of linear heads with as many layers of torch. Rounds are interleaved and medians compared, of
time and of processor time, which other programs on the machine disturb less. Features are random with the spectrum of
real ones; everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from vitreg.machine.runtime import provenance
from vitreg.probes.linear import RATES, LinearHeads, inputs
from vitreg.probes.logistic import GRID, LogisticPath
from vitreg.probes.neighbours import KNeighbours

WORK = """
import json, sys, threading, time
import numpy as np, torch
from vitreg.probes.logistic import LogisticPath
from vitreg.probes.neighbours import KNeighbours

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

def watch():
    while True:
        peak[0] = max(peak[0], status("RssAnon"))
        time.sleep(0.02)

what, file, images, width, classes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
x, y, peak = np.memmap(file, np.float16, "r", shape=(images, width)), torch.arange(images) % classes, [0]
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
if what == "knn":
    KNeighbours().fit(x, y).predict(torch.from_numpy(np.array(x[:2000])))
else:
    LogisticPath((1e-3,), steps=1).fit(x, y)
print(json.dumps({"own_mib": peak[0] >> 10, "with_mapped_file_mib": status("VmHWM") >> 10,
                  "seconds": round(time.perf_counter() - start, 1)}))
"""


def drawn(count: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Classes in features whose variances fall as a power of the rank, away from 0 as after a LayerNorm with a bias."""
    fixed = torch.Generator().manual_seed(1234)
    scales = torch.arange(1, width + 1) ** -0.5
    turn = torch.linalg.qr(torch.randn(width, width, generator=fixed)).Q
    means, centre = 0.35 * torch.randn(classes, width, generator=fixed), torch.randn(width, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    x = (means[labels] + torch.randn(count, width, generator=generator)) * scales
    return 4 * x @ turn + centre, labels


def interleaved(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each, by the clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for each in work.values():
        each()
    for _ in range(rounds):
        for name, each in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            each()
            times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: {
            "seconds": round(statistics.median(t for t, _ in found), 4),
            "processor_seconds": round(statistics.median(t for _, t in found), 4),
        }
        for name, found in times.items()
    }


def ratios(times: dict[str, dict[str, float]], above: str, below: str) -> dict[str, float]:
    return {
        "time": round(times[above]["seconds"] / times[below]["seconds"], 3),
        "processor_time": round(times[above]["processor_seconds"] / times[below]["processor_seconds"], 3),
    }


def knn(rounds: int) -> dict[str, object]:
    bank, labels = drawn(40_000, 768, 1000, 0)
    queries, _ = drawn(2048, 768, 1000, 1)
    probe = KNeighbours().fit(bank, labels)
    work = {"bare product": lambda: queries @ bank.T, "kNN": lambda: probe.predict(queries)}
    times = interleaved(work, rounds)
    return {"bank": list(bank.shape), "queries": 2048, "times": times, "over_product": ratios(times, *reversed(work))}


def logistic(images: int, width: int, classes: int) -> dict[str, object]:
    """One round: scikit-learn's 45 fits take minutes, in which a machine's moods even out."""
    x, y = drawn(images, width, classes, 0)
    queries, truth = drawn(10_000, width, classes, 1)
    LogisticPath(GRID[:3]).fit(x, y)
    found: dict[str, list[float]] = {}

    def ours() -> None:
        found["vitreg"] = LogisticPath().fit(x, y).score(queries, truth, "top1")

    def theirs(name: str, tolerance: float) -> None:
        scores = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for c in GRID:
                model = LogisticRegression(C=c, max_iter=1000, tol=tolerance).fit(x.double().numpy(), y.numpy())
                scores.append(100 * model.score(queries.double().numpy(), truth.numpy()))
        found[name] = scores

    times = {}
    for name, each in {
        "vitreg": ours,
        "scikit-learn": lambda: theirs("scikit-learn", 1e-4),
        "scikit-learn, tol 1e-8": lambda: theirs("scikit-learn, tol 1e-8", 1e-8),
    }.items():
        clock, processor = time.perf_counter(), time.process_time()
        each()
        times[name] = {
            "seconds": round(time.perf_counter() - clock, 2),
            "processor_seconds": round(time.process_time() - processor, 2),
        }
    others = [name for name in times if name != "vitreg"]
    return {
        "features": [images, width],
        "classes": classes,
        "times": times,
        "speed_over": {name: ratios(times, name, "vitreg") for name in others},
        "largest_difference_points": {
            name: round(float(np.abs(np.subtract(found[name], found["vitreg"])).max()), 3) for name in others
        },
        "top1": {name: [round(value, 2) for value in scores] for name, scores in found.items()},
    }


def linear(rounds: int) -> dict[str, object]:
    width, classes, batch = 384, 100, 256
    kinds = inputs(width, (1, 4), mean=True)
    x, labels = drawn(batch, 5 * width, classes, 0)
    heads = LinearHeads(kinds, classes, batch=batch, steps=10_000)
    modules = [(kind, nn.Linear(kind.columns.stop - kind.columns.start, classes)) for kind in kinds for _ in RATES]
    groups = [
        {"params": [*module.parameters()], "lr": rate}
        for (_, module), rate in zip(modules, RATES * len(kinds), strict=True)
    ]
    optimiser = torch.optim.SGD(groups, momentum=0.9)

    def separately() -> None:
        losses = [nn.functional.cross_entropy(module(x[:, kind.columns]), labels) for kind, module in modules]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()

    times = interleaved({"52 layers of torch": separately, "vitreg": lambda: heads.step(x, labels)}, 4 * rounds)
    return {
        "heads": len(heads),
        "width": width,
        "classes": classes,
        "batch": batch,
        "times": times,
        "speed_over_layers": ratios(times, "52 layers of torch", "vitreg"),
    }


def memory(images: int, width: int, classes: int) -> dict[str, object]:
    """Peaks of processes of their own, which read features of float16 from a file."""
    result: dict[str, object] = {"features": [images, width], "classes": classes, "dtype": "float16"}
    with tempfile.TemporaryDirectory() as folder:
        file = np.memmap(Path(folder) / "features", np.float16, "w+", shape=(images, width))
        for start in range(0, images, 20_000):
            part = file[start : start + 20_000]
            part[:] = np.random.default_rng(start).standard_normal(part.shape, np.float32)
        file.flush()
        for what in ("knn", "logistic"):
            command = [sys.executable, "-c", WORK, what, str(file.filename), str(images), str(width), str(classes)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result[what] = json.loads(done.stdout)
            print(what, done.stdout.strip(), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=("knn", "logistic", "linear"), default=("knn", "logistic", "linear")
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--images", type=int, help="4000 for logistic regression, 1 200 000 with --memory")
    parser.add_argument("--width", type=int, help="384 for logistic regression, 1024 with --memory")
    parser.add_argument("--classes", type=int, help="30 for logistic regression, 1000 with --memory")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started = datetime.now(UTC)
    defaults = (1_200_000, 1024, 1000) if options.memory else (4000, 384, 30)
    shape = [
        given or usual for given, usual in zip((options.images, options.width, options.classes), defaults, strict=True)
    ]
    result: dict[str, object] = {}
    if options.memory:
        result = memory(*shape)
    else:
        work = {
            "knn": lambda: knn(options.rounds),
            "logistic": lambda: logistic(*shape),
            "linear": lambda: linear(options.rounds),
        }
        for name in options.only:
            result[name] = work[name]()
            print(name, json.dumps(result[name]), flush=True)
    result["threads"] = torch.get_num_threads()
    result["provenance"] = provenance(
        started=started, device=torch.device("cpu"), precision="float32", processes=1
    ).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / ("probes-memory.json" if options.memory else "probes-cpu.json")
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
