"""The training loop: steps, precision, checkpoints and signals. The recipe defines the loss."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitreg.backbones.fast_linear import faster_linear
from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.machine.runtime import keep_freed_memory
from vitreg.models.block import Block
from vitreg.recipes.recipe import Progress, Recipe, StepOutput
from vitreg.training import checkpoint
from vitreg.training.journal import Journal, Sums, mean_of, read_records
from vitreg.training.optim import build_optimizer, clip_gradients, set_rates
from vitreg.training.parallel import wrap
from vitreg.training.plan import Plan
from vitreg.training.settings import TrainConfig
from vitreg.training.setup import DivergedError, Moment, Outcome, Setup
from vitreg.training.signals import Stop, agree, stop_signals


def fit(
    recipe: Recipe, config: TrainConfig, plan: Plan, setup: Setup, resumed: checkpoint.Loaded | None = None
) -> Outcome:
    """Train a recipe from its first step, or from a checkpoint, until the plan ends or a signal stops it.

    A resumed run continues bit for bit: everything that follows depends only on the state of the recipe, the state of
    the optimiser, and the step.

    Raises:
        UserError: if a loss or a gradient is not finite, or a checkpoint cannot be written.
    """
    keep_freed_memory()
    loop = _Loop(recipe, config, plan, setup)
    with stop_signals() as stop, contextlib.closing(loop.begin(resumed)):
        return loop.run(stop)


class _Loop:
    def __init__(self, recipe: Recipe, config: TrainConfig, plan: Plan, setup: Setup) -> None:
        self.recipe, self.config, self.plan, self.setup = recipe, config, plan, setup
        for module in recipe.shards():
            if isinstance(module, Block):
                module.checkpoint = config.run.checkpoint_activations
            if config.run.compile:
                module.compile()
        self.wrapped = wrap(recipe, config.run.parallel, setup.device, setup.precision, recipe.shards())
        self.groups = recipe.parameter_groups(config.optim)
        self.optimizer = build_optimizer(self.groups, config.optim)
        # Only float16 lacks the range for gradients.
        self.scaler = torch.amp.GradScaler(setup.device.type, enabled=setup.precision == torch.float16)
        self.step = self.told = 0
        self.end = plan.total  # or earlier, by run.until
        self.published = 0  # the step of the weights in model.safetensors
        self.sums = Sums()
        self.looked = True
        self.metric: float | None = None  # of the current weights
        self.saved: Path | None = None
        self.skipped: dict[str, str] = {}

    def begin(self, resumed: checkpoint.Loaded | None) -> Journal:
        """Load a checkpoint, and reopen the journal at its step."""
        if resumed is not None:
            self.wrapped.load(resumed.model)
            self.wrapped.load_optimizer(self.optimizer, self.groups, resumed.optimizer)
            self.step, self.saved = resumed.step, resumed.path
            try:
                self.scaler.load_state_dict(resumed.state["scaler"])
                self.metric, self.looked = resumed.state["metric"], bool(resumed.state["looked"])
                self.sums, self.skipped = Sums(**resumed.state["sums"]), dict(resumed.state["skipped"])
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise UserError(
                    f"the state.json of {resumed.path} lacks what a training run writes into it ({error!r})."
                ) from error
            self.published = self.setup.group.gather(checkpoint.published_step(self.setup.folder))[0]
        run, first = self.config.run, self.setup.group.first
        self.told = self.step
        if self.plan.until is not None and self.step:
            before = [line for line in read_records(self.setup.folder, "evaluation") if line["step"] <= self.step]
            self.end = self._end(self.setup.group.gather(before)[0])
        self.journal = Journal(
            self.setup.folder, self.step, until=self.published, looked=self.looked, write=first,
            tensorboard=run.tensorboard and first,
        )  # fmt: skip
        return self.journal

    def run(self, stop: Stop) -> Outcome:
        """Run the remaining steps."""
        self._start()
        with contextlib.closing(iter(self.setup.batches(self.step))) as batches:  # pyright: ignore[reportArgumentType]
            while self.step < self.end:
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                metrics = self._update(batch.on(self.setup.device, self.setup.mean, self.setup.std))
                number, finite = agree(stop, self._finite(metrics))
                if not finite:
                    raise DivergedError(self._diverged(), self.step + 1)
                self.step += 1
                self.setup.stepped()
                self.metric = None
                self.sums.add(metrics, waited, time.perf_counter() - began)
                last = self.step == self.end
                if last or self.step % self.config.run.log_every == 0:
                    self._log()
                if number and not last:  # only seconds may be left: evaluation can wait until the run is resumed
                    self._save(looked=False)
                    return Outcome("stopped", self.step, number)
                self._look(at_start=False)
                last = self.step == self.end  # an evaluation may have ended the run
                # Save after every evaluation: else the best weights would be gone by the next checkpoint.
                if last or self.metric is not None or self.step % self.plan.save_every == 0:
                    self._save()
        return Outcome("done", self.step, notes=self._notes())

    def _start(self) -> None:
        """Run the callbacks before the first step, or those that an interrupted run left undone."""
        self._publish(self.wrapped.state())
        self.published = max(self.step, self.published)
        if self.step == 0:
            self._look(at_start=True)
        elif not self.looked and self._look(at_start=False):
            self._save()

    def _update(self, batch: TrainBatch) -> dict[str, Tensor]:
        """One optimiser step on this process's part of the global batch. Returns the mean of every metric."""
        run, optim = self.config.run, self.config.optim
        progress = Progress(step=self.step, total=self.plan.total, epoch_steps=self.plan.epoch_steps, seed=run.seed)
        set_rates(self.optimizer, self.groups, optim, progress, self.plan.warmup, run.batch)
        parts = batch.split(run.micro_batch or len(batch))
        means: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            share = len(part) / len(batch)
            with contextlib.nullcontext() if number == len(parts) - 1 else self.wrapped.no_sync(), self._faster():
                output = self._forward(part, replace(progress, first=part.first))
                self.scaler.scale(output.loss * share).backward()
            for key, value in {"loss": output.loss.detach(), **output.metrics}.items():
                means[key] = means.get(key, 0.0) + share * value
        self.scaler.unscale_(self.optimizer)
        means |= clip_gradients(self.groups, optim)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.recipe.after_step(progress)
        return means

    def _forward(self, part: TrainBatch, progress: Progress) -> StepOutput:
        precision = self.setup.precision
        with torch.autocast(self.setup.device.type, precision, enabled=precision != torch.float32):
            return self.wrapped(part, progress)

    def _faster(self) -> contextlib.AbstractContextManager[object]:
        """Return what holds around forward and backward, in which checkpointed blocks run forward again."""
        plain = self.setup.precision != torch.float32 or self.config.run.compile
        return contextlib.nullcontext() if plain else faster_linear(self.wrapped.recipe)

    def _log(self) -> None:
        """Write the means since the last line, over all processes, and reset them."""
        own = {**self.sums.means(), "wait_share": self.sums.wait_share}
        measured = mean_of(self.setup.group.gather(own))
        means: dict[str, float | None] = {**measured}
        means["lr"] = max(group["lr"] for group in self.optimizer.param_groups)
        means["images_per_second"] = self.sums.rate(self.config.run.batch)
        means["epoch"] = self.step / self.plan.epoch_steps
        self.journal.write("train", self.step, means)
        if self.setup.group.first:
            self.setup.tell(Moment(self.step - self.told, self.step, measured["loss"]))
        self.told, self.sums = self.step, Sums()

    def _look(self, *, at_start: bool) -> bool:
        """Run the callbacks that are due, and write their records. Returns whether any was due."""
        recipe, any_due = None, False
        for callback in self.setup.callbacks:  # the evaluation comes first: it may make this the last step
            if not (callback.at_start if at_start else self.step % callback.every == 0 or self.step == self.end):
                continue
            any_due, recipe = True, recipe or self.wrapped.plain()
            values = callback.call(recipe)
            if callback.best is not None:
                self.metric = float(values[callback.best]) * (1 if callback.better == "max" else -1)
            self.journal.write(callback.kind, self.step, values)
            if callback.kind == "evaluation":
                self.end = min(self.end, self._end([{"kind": callback.kind, "step": self.step, **values}]))
        return any_due

    def _end(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Return the step at which the run ends, by its evaluations: not before the present one."""
        found = None if self.plan.until is None else self.plan.until.end(records)
        return self.plan.total if found is None else min(max(found, self.step), self.plan.total)

    def _save(self, *, looked: bool = True) -> None:
        """Write a checkpoint, and publish the backbone."""
        group = self.setup.group
        state = self.wrapped.state()
        moments = self.wrapped.optimizer_state(self.optimizer, self.groups)
        for part in group.gather(dict(self.setup.skipped())):
            self.skipped |= part
        sums = replace(self.sums, values=mean_of(group.gather(self.sums.values)))
        done: Path | UserError | None = None
        if group.first:
            document = {
                "step": self.step,
                "scaler": self.scaler.state_dict(),
                "skipped": self.skipped,
                "metric": self.metric,
                "sums": asdict(sums),
                "looked": looked,
            }
            try:
                done = checkpoint.save(self.setup.folder, state, moments, document, self.config.run.keep)
                self._publish(state)
            except UserError as error:
                done = error
        said = group.gather(done)[0]  # all processes stop together
        if isinstance(said, UserError):
            raise said
        self.saved, self.published = said, max(self.step, self.published)

    def _publish(self, state: Mapping[str, Tensor]) -> None:
        """Publish the backbone, unless the published one is of a later step: it may be all that is left of a lost
        checkpoint."""
        if self.step < self.published or not self.setup.group.first:
            return
        backbone = self.recipe.backbone()
        assert isinstance(self.recipe, torch.nn.Module)
        prefix = next(f"{name}." for name, module in self.recipe.named_modules() if module is backbone)
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        checkpoint.publish(self.setup.folder, backbone.publish(own), {**self.setup.published, "step": self.step})

    def _finite(self, metrics: Mapping[str, Tensor]) -> bool:
        """Whether loss and gradient are finite. In float16 the scaler skips steps with a non-finite gradient."""
        watched = ("loss",) if self.scaler.is_enabled() else ("loss", "gradient_norm")
        return all(math.isfinite(value) for key, value in metrics.items() if key.startswith(watched))

    def _diverged(self) -> str:
        # The checkpoint of this step holds the weights that caused this.
        before = [path.name for path in (self.setup.folder / "checkpoints").glob("step-*")]
        good = max((name for name in before if name < f"step-{self.step:08d}"), default=None)
        back = f"the last good checkpoint is {good}" if good else "there is no good checkpoint from before"
        means = "a smaller --optim.lr, a longer --optim.warmup or an --optim.clip"
        # A resumed run keeps its rate.
        usable = good == f"step-{self.published:08d}"
        start = f" from it with --run.start-from {shlex.quote(f'run:{self.setup.folder}')} and" if usable else " with"
        return (
            f"the loss or the gradient of step {self.step + 1} is not finite; {back}; start a new run{start} {means}."
        )

    def _notes(self) -> tuple[str, ...]:
        if not self.skipped or self.saved is None:
            return ()
        name, reason = next(iter(self.skipped.items()))
        return (
            f"{len(self.skipped)} images could not be read, others took their places; "
            f"checkpoints/{self.saved.name}/state.json lists them, such as {name}: {reason}.",
        )
