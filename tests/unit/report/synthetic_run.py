"""Folders of training runs made up by arithmetic, as `vitreg train` leaves them: artifacts at known looks, or none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

BLOCKS, SHARE = 12, 0.02


def write_run(
    folder: Path,
    *,
    total: int = 10_000,
    artifacts: Iterable[int] = (),
    registers: int = 0,
    done: int | None = None,
    watch_every: int = 500,
    log_every: int = 50,
    evaluation: str = "top1",
    seed: int = 3,
    recipe: str = "supervised",
) -> Path:
    """Write config.json and metrics.jsonl; the looks at the steps in `artifacts` show outliers, no others do.

    Args:
        total: steps of the run as configured; 100 steps are an epoch.
        done: steps that it got to; all if unset.
    """
    rng = np.random.default_rng(seed)
    done, shown = total if done is None else done, set(artifacts)
    lines = []
    for step in range(done + 1):
        if step and (step % log_every == 0 or step == done):
            lines.append(_train(step, total, rng))
        if step and step % (total // 10) == 0:
            lines.append(_evaluation(step, total, evaluation, rng))
        if watch_every and (step % watch_every == 0 or step == done):
            lines.append({"kind": "norms", "step": step, **look(step / total, step in shown, rng)})
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train = {
        "model": {"size": "S", "patch": 16, "registers": registers},
        "recipe": {"kind": recipe},
        "run": {"duration": f"{total // 100} epochs", "batch": 256, "seed": seed},
    }
    (folder / "config.json").write_text(json.dumps({"schema": "vitreg.run/1", "model": {}, "train": train}))
    return folder


def look(share_done: float, artifacts: bool, rng: np.random.Generator) -> dict[str, object]:
    """What `norms_of` gives: the second half of the blocks shows outliers, or none does."""
    layers, last = [], np.zeros(0)
    for block in range(BLOCKS):
        median = (5 + 12 * share_done) * (1 + block / BLOCKS)
        norms = median * np.exp(0.18 * rng.standard_normal(6000))
        on = artifacts and block >= BLOCKS // 2
        if on:
            norms[: round(SHARE * len(norms))] *= 6.0
        layers.append(
            {
                "median": float(np.median(norms)),
                "p99": float(np.quantile(norms, 0.99)),
                "max": float(norms.max()),
                "ratio": 6.0 if on else None,
                "outlier_fraction": SHARE * (block - BLOCKS // 2 + 1) / (BLOCKS // 2) if on else 0.0,
            }
        )
        last = norms
    edges = 2.0 ** (np.arange(-16, 160) / 16)
    return {
        "verdict": "high-norm" if artifacts else "none",
        "strength": "strong" if artifacts else "none",
        "first_layer": BLOCKS // 2 if artifacts else None,
        "peak_layer": BLOCKS - 1 if artifacts else None,
        "outlier_fraction": SHARE if artifacts else 0.0,
        "layers": layers,
        "histogram": {"edges": edges.tolist(), "counts": np.histogram(last, edges)[0].tolist(), "unit": "norm"},
    }


def _train(step: int, total: int, rng: np.random.Generator) -> dict[str, object]:
    return {
        "kind": "train",
        "step": step,
        "loss": 1.4 + 5.5 * float(np.exp(-5 * step / total)) + 0.15 * float(rng.standard_normal()),
        "gradient_norm": float(rng.lognormal(0.5, 0.4)),
        "lr": 1e-3 * min(step / (0.05 * total), 0.5 + 0.5 * float(np.cos(np.pi * step / total))),
        "images_per_second": 900 + 30 * float(rng.standard_normal()),
        "epoch": step / 100,
    }


def _evaluation(step: int, total: int, name: str, rng: np.random.Generator) -> dict[str, object]:
    value = 80 * (1 - float(np.exp(-4 * step / total))) + float(rng.standard_normal())
    return {"kind": "evaluation", "step": step, name: value, f"{name}_other": value - 3}
