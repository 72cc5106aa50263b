"""Trainings made up by arithmetic, in the place of real ones: what a run finds depends on its settings and seed alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from vitreg.config import encode
from vitreg.experiments.lab import runs

EVERY = 250


def moment(step, ratio, attention=0.5, registers=None, values=0.1, older=False, foreground=0.05):
    """A look, as `metrics.jsonl` has it; one of vitreg 0.1.0 lacks single registers and the most attended token.

    Args:
        registers: what they take together; the first takes two thirds of it, the second the rest.
        foreground: what the most attended foreground tile takes.
    """
    tokens = {"outliers": None, "background": attention, "registers": registers}
    layer = {
        "median": 1.0, "p99": 1.0, "max": 2.0, "ratio": None, "outlier_fraction": 0.0, "image_ratio": ratio,
        "attention": tokens, "values": {**tokens, "background": values, "registers": registers and 0.8},
    }  # fmt: skip
    if not older:
        most = {"attention": foreground, "values": 0.9, "norm": 1.1, "kinds": {"marked": 0.25, "unmarked": 0.75}}
        each = registers and {
            "attention": [registers * 2 / 3, registers / 3],
            "values": [0.8, 0.8],
            "norms": [3.0, 1.0],
            "number": 1.2,
        }
        layer |= {
            "norms": {**tokens, "background": ratio, "registers": registers and 2.0}, "each_register": each or None,
            "most": {**most, "attention": max(foreground, attention), "kinds": {"background": 1.0}} if attention > foreground else most,
            "foreground": most, "sinks": float(attention > 0.3),
        }  # fmt: skip
    other = {**layer, "image_ratio": 1.0, "attention": {**tokens, "background": 0.05, "registers": registers and 0.1}}
    return {
        "step": step, "verdict": "none", "strength": "none", "first_layer": None, "peak_layer": None, "outlier_fraction": 0.0,
        "layers": [other, layer], "histogram": {"edges": [1.0, 2.0], "counts": [1.0], "unit": "norm"},
    }  # fmt: skip


def planted(config):
    """The truth of the planted runs: 30 times the median without registers and loss, else 1.5; registers solve 500 steps earlier."""
    grows = config.model.registers == 0 and ",loss=1" not in config.data.root
    return {"peak": 30.0 if grows else 1.5, "solved": 3000 - 500 * (config.model.registers > 0), "spread": 0.15}


def plausible(config, folder: Path) -> int:
    """Write a run as those of a whole design may look: who grows artifacts, dissolves them again, never solves its task or is slow."""
    model, root = config.model, config.data.root
    if config.run.start_from is not None:
        return go_on(folder, config, begins=60.0, ends=1.6 if model.registers else 70.0)
    none = (
        model.registers > 0
        or model.mlp == "mlp"
        or model.gate
        or (",background=0" in f"{root}," and "background=0." not in root)
    )
    peak = 1.4 if none or ",loss=1" in root else 12.0 if model.registers == 1 else 60.0
    slow = config.optim.lr < 0.002 or model.depth == 2
    return write(
        folder, config, peak=peak, solved=None if slow and config.run.seed % 2 else 3200 - 300 * (model.registers > 0), spread=0.5,
        last=1.4 if peak > 5 and config.run.seed == 3 else None, foreground=0.35 if model.mlp == "mlp" else 0.05,
    )  # fmt: skip


def write(folder: Path, config, *, peak=30.0, solved=3000, spread=0.15, last=None, older=False, foreground=0.05):
    """Write the folder of a run that grew artifacts, or none, about the step at which it solved its task.

    Args:
        solved: None if it never did.
        spread: of the peak over seeds, as a standard deviation of its logarithm.
        last: ratio at the last look; the peak if unset.
    """
    draw = np.random.default_rng(config.run.seed)
    peak *= float(np.exp(spread * draw.standard_normal()))
    solved = None if solved is None else solved + EVERY * int(draw.integers(-1, 2))
    end = (solved + 1000) if solved else 4000
    half, lines = solved or end, []
    for step in range(0, end + 1, EVERY):
        grown = 1 / (1 + np.exp(-(step - half) / 200))
        ratio = 1.3 * (peak / 1.3) ** grown
        error = 0.16 * (0.004 / 0.16) ** grown if solved is None or step < solved else 0.004
        if solved is None:
            error = 0.05
        ratio = last if last is not None and step == end else ratio
        if step:
            lines.append({"kind": "train", "step": step, "loss": 1.0, "epoch": 0.0})
            lines.append({"kind": "evaluation", "step": step, "val_loss": error, "val_asked": float(error)})
        held = 0.9 * grown * (1 - 0.002 * config.run.seed) if config.model.registers else None
        lines.append(
            {
                "kind": "norms",
                **moment(
                    step,
                    float(ratio),
                    float(0.05 + 0.6 * grown) if peak > 5 else 0.06,
                    held,
                    0.05 + 0.01 * config.run.seed,
                    older,
                    foreground,
                ),
            }
        )
    _written(folder, config, lines)
    return end


def go_on(folder: Path, config, *, begins=30.0, ends=30.0, spread=0.15):
    """Write the folder of a run that goes on from one with artifacts, for its whole duration: from one norm to another."""
    draw = np.random.default_rng([config.run.seed, config.model.registers])
    ends *= float(np.exp(spread * draw.standard_normal()))
    end, lines = int(config.run.duration.split()[0]), []
    for step in range(0, end + 1, EVERY):
        ratio = begins * (ends / begins) ** (step / end)
        lines.append({"kind": "norms", **moment(step, ratio, 0.5, 0.4 if config.model.registers else None)})
        if step:
            lines.append({"kind": "evaluation", "step": step, "val_loss": 0.004, "val_asked": 0.004})
    _written(folder, config, lines)
    return end


def _written(folder, config, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"schema": "vitreg.run/1", "model": {}, "train": encode(config)}))


def in_this_process(monkeypatch, trained, ran: Path | None = None, figures=False):
    """Let the lab train by `trained(config, folder)` here, instead of in processes of its own; note each run in a file.

    Args:
        figures: whether they are drawn, which takes a second.
    """

    def instead(config, folder, resumed):
        if ran is not None:
            with ran.open("a") as file:
                file.write(f"{os.getpid()} {folder.name}\n")
        return trained(config, folder)

    def here(wanted, folder, processes, watch, every=0.0, hours=None):
        runs.work_on(wanted, folder, hours)
        watch()

    if not figures:
        monkeypatch.setattr("vitreg.report.lab.page.draw_figures", lambda *given: None)
    monkeypatch.setattr(runs, "trained", instead)
    monkeypatch.setattr("vitreg.experiments.lab.running.train_all", here)
    monkeypatch.setattr("vitreg.experiments.lab.running.Timing", lambda: lambda config: 0.05)
