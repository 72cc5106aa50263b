"""How fast views are made from files, and how long a real run waits for them."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ours import Case

from vitreg import presets
from vitreg.data.batches.training import training_loader
from vitreg.recipes.clip import Tokenizer
from vitreg.training.settings import RunConfig, TrainConfig
from vitreg.verbs.train.build import open_data
from vitreg.verbs.train.verb import train

PRESETS = (
    "deit3-imagenette-cpu",
    "mae-imagenette-cpu",
    "clip-flickr8k-cpu",
    "dinov2-imagenette-cpu",
    "dino-imagenette-cpu",
)


def views(data: Path, case: Case, images: int, rounds: int) -> dict[str, Any]:
    """Images/s that this process alone makes ready, for the view of every recipe, in turns."""
    configs = {name: _config(name, data, case) for name in PRESETS}
    opened = {name: open_data(config) for name, config in configs.items()}
    rates: dict[str, list[float]] = {name: [] for name in configs}
    for number in range(rounds):
        for name, what in opened.items():
            loader = training_loader(
                what.train, what.view, what.order, batch=images, start_step=number, steps=number + 1,
                seed=0, workers=0, tokenize=Tokenizer() if name.startswith("clip") else None,
            )  # fmt: skip
            start = time.perf_counter()
            list(loader)
            rates[name].append(images / (time.perf_counter() - start))
    return {
        name.removesuffix("-cpu"): {
            "images_per_second": round(statistics.median(rate), 1),
            "best": round(max(rate), 1),
            "crops": sum(stack[0] for stack in _stacks(opened[name])),
        }
        for name, rate in rates.items()
    }


def wait_share(data: Path, case: Case, workers: int | None, steps: int) -> dict[str, Any]:
    """Share of a real run's time in which it waits for data, from its journal, the first lines left out."""
    result = {}
    for name in ("deit3-imagenette-cpu", "dinov2-imagenette-cpu"):
        config = _config(name, data, case)
        config = replace(
            config,
            data=replace(config.data, workers=workers),
            run=RunConfig(duration=f"{steps} steps", batch=config.run.batch, log_every=5, device=str(case.device)),
        )
        with tempfile.TemporaryDirectory() as folder:
            train(config, Path(folder) / "run", judged=False)
            lines = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
        waits = [line["wait_share"] for line in lines if "wait_share" in line][1:]
        speed = [line["images_per_second"] for line in lines if "wait_share" in line][1:]
        result[name.removesuffix("-cpu")] = {
            "wait_share": round(statistics.mean(waits), 4),
            "largest": round(max(waits), 4),
            "images_per_second": round(statistics.median(speed), 1),
            "batch": config.run.batch,
            "workers": workers,
        }
    return result


def _config(name: str, data: Path, case: Case) -> TrainConfig:
    root = data / ("flickr8k/captions.json" if name.startswith("clip") else "imagenette-128")
    config: TrainConfig = presets.PRESETS[name]()
    return replace(
        config,
        model=replace(config.model, image_size=case.pixels),
        data=replace(config.data, root=str(root)),
        optim=replace(config.optim, warmup="10%"),
    )


def _stacks(opened: Any) -> list[tuple[int, ...]]:
    return [tuple(stack.shape) for stack in opened.view(opened.train.read(0).image)]
