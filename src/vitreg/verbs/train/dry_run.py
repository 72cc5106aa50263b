"""`train --dry-run`: takes a few steps of a run to measure its memory and time before it starts."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitreg.machine.runtime import choose_device, processes
from vitreg.recipes.recipe import Recipe
from vitreg.training.journal import read_records
from vitreg.training.plan import Plan
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train import build
from vitreg.verbs.train.checks import check_settings
from vitreg.verbs.train.verb import train

TIMED = 3  # steps; the first is slower and not counted


def dry_run(config: TrainConfig, say: Callable[[str], None]) -> None:
    """Build a run, take its first steps in a temporary folder, and report what the whole run needs.

    A machine short of memory may kill the process without a message, so each line is logged before the next step runs.

    Args:
        say: called with one line at a time: steps, parameters, FLOPs, memory, the estimated time.
    Raises:
        UserError: for anything that would stop the run at its start.
    """
    check_settings(config)
    with processes(training=True) as group:
        build.check_batch(config, group.world)
        data = build.open_data(config)
        plan = build.plan_of(config, data)
        for line in (*data.notes, _steps(config, plan)):
            say(line)
        recipe = build.build_recipe(config, len(data.train.classes or ()))
        build.check_split(config, group.world, recipe.why_whole_batch())
        say(_parameters(recipe))
        say(_next(config, group.world))
        del recipe  # a second one would count twice in the memory
        short = replace(
            config.run, evaluate_every="100%", watch_images=0, save_every="100%", log_every=1, tensorboard=False
        )
        with tempfile.TemporaryDirectory() as own:
            folder = Path(group.gather(own)[0])
            counter = FlopCounterMode(display=False)
            # A run this short would be all warm-up, or start at the full rate, which may diverge.
            config = replace(config, optim=replace(config.optim, warmup="0 steps", lr=1e-8, min_lr=0.0))
            once = replace(config, data=replace(config.data, workers=0), run=replace(short, duration="1 steps"))
            with counter:
                _short(once, folder / "once")
            _short(replace(config, run=replace(short, duration=f"{TIMED} steps")), folder / "timed")
            lines = read_records(folder / "timed", "train")[1:]
            rates = [rate for line in lines if (rate := line["images_per_second"]) is not None]
            group.gather(None)  # the first process keeps the folder until all have read it
    flops = counter.get_total_flops() * group.world / config.run.batch
    say(f"{flops / 1e9:.{2 if flops > 1e8 else 4}f} GFLOPs per image, forward and backward.")
    say(f"{_memory(choose_device(config.run.device)):.1f} GiB at the most.")
    if not rates:
        say("The time of a step is unknown: the clock of this machine stands still.")
        return
    rate = sum(rates) / len(rates)
    seconds = plan.total * config.run.batch / rate
    say(f"{rate:.1f} images/s: about {timedelta(seconds=round(seconds))} here, without evaluation.")


def _steps(config: TrainConfig, plan: Plan) -> str:
    return (
        f"{plan.total} step{'s' * (plan.total > 1)} of {config.run.batch} images "
        f"({plan.total / plan.epoch_steps:.1f} epochs of {plan.epoch_steps} steps)."
    )


def _next(config: TrainConfig, world: int) -> str:
    """Log the steps before they run, so that a process killed for memory shows where."""
    own, micro = config.run.batch // world, config.run.micro_batch
    at_once = f"{min(micro or own, own)} at once" + (" in each process" if world > 1 else "")
    return (
        f"Trying {1 + TIMED} steps of {config.run.batch} images, {at_once}; should this end here, memory is too small."
    )


def _short(config: TrainConfig, folder: Path) -> None:
    if train(config, folder, judged=False).reason == "stopped":
        raise KeyboardInterrupt("nothing of a dry run is kept")


def _parameters(recipe: Recipe) -> str:
    assert isinstance(recipe, torch.nn.Module)
    trained = sum(p.numel() for p in recipe.parameters() if p.requires_grad)
    inside = sum(p.numel() for p in recipe.backbone().parameters())
    return f"{inside / 1e6:.2f} M parameters in the backbone, {trained / 1e6:.2f} M trained in all."


def _memory(device: torch.device) -> float:
    """Return the largest memory so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
