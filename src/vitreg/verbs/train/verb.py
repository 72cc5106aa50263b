"""`train`: trains a backbone from a configuration into a folder with its records and checkpoints."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitreg.config import decode, differences, encode, read
from vitreg.console.terminal import say
from vitreg.data.batches.training import TrainingLoader
from vitreg.errors import UserError
from vitreg.machine.precision import DTYPES, choose_precision
from vitreg.machine.runtime import Processes, choose_device, processes
from vitreg.passes.options import takes
from vitreg.passes.progress import Advance, progress
from vitreg.presets import preset
from vitreg.recipes.foreign import ForeignNetwork
from vitreg.recipes.known import blamed
from vitreg.recipes.recipe import Recipe
from vitreg.training import checkpoint
from vitreg.training.claim import Claim, claimed
from vitreg.training.fit import fit
from vitreg.training.journal import read_journal, unreadable_lines
from vitreg.training.plan import Plan
from vitreg.training.same_data import check_same_base, check_same_data, remedy, samples_record
from vitreg.training.settings import TrainConfig, changed
from vitreg.training.setup import Callback, Outcome, Setup
from vitreg.verbs.curves import write_run_report
from vitreg.verbs.scan.look import look
from vitreg.verbs.train import build
from vitreg.verbs.train.checks import check_settings
from vitreg.verbs.train.judges import judge_of
from vitreg.writing.ledger import read_ledger
from vitreg.writing.outputs import Outputs, finish_left

# Settings that may change when a run is resumed: where and how it is computed, and how often it is evaluated.
FREE = frozenset(
    ["model.base_weights"]
    + [f"data.{key}" for key in ("root", "val", "workers", "cache", "download")]
    + [
        f"run.{key}"
        for key in ("micro_batch", "parallel", "checkpoint_activations", "compile", "device", "tensorboard")
    ]
    + [f"run.{key}" for key in ("keep", "save_every", "evaluate_every", "watch_every", "watch_maps", "log_every")]
)


@takes(TrainConfig)
def train(
    config: TrainConfig | str,
    out: str | Path,
    *,
    resume: bool = False,
    quiet: bool = True,
    judged: bool = True,
    evaluated: bool = True,
    **tables: Any,
) -> Outcome:
    """Train a Vision Transformer.

    Args:
        config: the complete run, or the name of a preset.
        out: folder of the run: config.json, model.safetensors, metrics.jsonl, checkpoints/.
        resume: resume the run in `out` from its newest good checkpoint.
        judged: evaluate and watch the norms as configured.
        evaluated: evaluate on the validation side; False leaves that out and watches the norms.
        tables: settings over those of `config`, by their table: optim={"lr": 1e-3}, data={"root": "images/"}.
    Returns:
        how it ended.
    Raises:
        UserError: for settings that do not exist or do not fit, data that cannot be used, a folder of another run, or a
            loss that is not finite.
    """
    folder = Path(out)
    config = changed(preset(config) if isinstance(config, str) else config, tables)
    with blamed(config.recipe):
        check_settings(config)
    with blamed(config.recipe), processes(training=True) as group:
        build.check_batch(config, group.world)
        say = _Say(quiet or not group.first)
        with claimed(folder, group, partial(_refuse_foreign, folder, resume)) as claim:
            for note in claim.notes if claim else ():
                say(note)
            outcome = _train(config, folder, group, say, claim, resume=resume, judges=(judged, judged and evaluated))
            if group.first:
                try:
                    write_run_report(folder)
                except UserError as error:  # of a finished run nothing else is missing
                    say(f"the page of the run was not written: {error}")
            group.gather(None)  # all leave together
        for note in outcome.notes:
            say(note)
    return outcome


def _train(
    config: TrainConfig,
    folder: Path,
    group: Processes,
    say: _Say,
    claim: Claim | None,
    *,
    resume: bool,
    judges: tuple[bool, bool],
) -> Outcome:
    """Train in a folder that nobody else writes to; `judges`: whether norms are watched, and whether the run is evaluated."""
    record = _record(folder, config, resume, say)
    data = build.open_data(config)
    known = data_record(data)
    if record is not None:
        note = check_same_data(record, known, folder)
        if note is not None:
            say(note)
    recipe = build.build_recipe(config, len(data.train.classes or ()))
    data = build.prepared_for(data, recipe)
    known = published(config, data, recipe) | known
    if record is not None:
        check_same_base(record, known, folder)
    build.check_split(config, group.world, recipe.why_whole_batch())
    plan = build.plan_of(config, data)
    resumed = None if record is None else _newest(folder, record.get("step"), plan, group, say)
    for note in data.notes:
        say(note)
    if config.run.start_from is not None and resumed is None:
        from vitreg.training.start import start_from

        for note in recipe.begin_with(partial(start_from, spec=config.run.start_from)):
            say(note)
    device = choose_device(config.run.device)
    precision, known["precision"] = _precision(config, device, record, say)
    done = resumed.step if resumed else 0
    if done == plan.total:
        say(f"the run in {folder} was finished before.")
    with progress("training", plan.total, unit="steps", show=not say.quiet, done=done) as bar:
        setup = _setup(config, data, plan, group, folder, device, precision, known, bar, judges)
        if claim is not None:
            setup = replace(setup, stepped=claim.keep)
        return fit(recipe, config, plan, setup, resumed)


class _Say:
    """Print to the person who started the run; nobody else."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, sentence: str) -> None:
        if not self.quiet:
            say(f"vitreg: {sentence}", error=True)


def _setup(
    config: TrainConfig,
    data: build.Data,
    plan: Plan,
    group: Processes,
    folder: Path,
    device: torch.device,
    precision: torch.dtype,
    known: dict[str, Any],
    bar: Advance,
    judges: tuple[bool, bool],
) -> Setup:
    loaders: list[TrainingLoader] = []

    def batches(start: int) -> TrainingLoader:
        loaders.append(build.loader_of(config, data, plan.total, start, group))
        return loaders[-1]

    return Setup(
        batches=batches,
        mean=data.preprocess.mean,
        std=data.preprocess.std,
        folder=folder,
        device=device,
        precision=precision,
        group=group,
        published=known,
        skipped=lambda: loaders[-1].skipped if loaders else {},
        callbacks=callbacks(config, data, plan, group, evaluated=judges[1]) if judges[0] else (),
        tell=lambda moment: bar(moment.steps, f"loss {moment.loss:.3g}"),
    )


def _precision(
    config: TrainConfig, device: torch.device, record: dict[str, Any] | None, say: _Say
) -> tuple[torch.dtype, dict[str, Any] | None]:
    """Return the precision of the run, and its entry in config.json; a resumed run keeps its precision."""
    before = (record or {}).get("precision")
    if config.run.precision == "auto" and isinstance(before, dict) and before.get("device") == device.type:
        dtype = DTYPES.get(str(before.get("chosen")))
        if dtype is not None:
            return dtype, before
    dtype, choice = choose_precision(config.run.precision, device)
    if choice is None:
        return dtype, None
    say(choice.sentence)
    return dtype, {**choice.model_dump(), "device": device.type}


def data_record(data: build.Data) -> dict[str, Any]:
    """Return the entries of config.json about the data: "data", and "classes" if there are any.

    Call this right after the data are opened.
    """
    record: dict[str, Any] = {"data": samples_record(data.train)}
    if data.train.classes is not None:
        record["classes"] = list(data.train.classes)
    return record


def published(config: TrainConfig, data: build.Data, recipe: Recipe) -> dict[str, Any]:
    """Return the other entries of config.json: the network, its preprocessing, all settings."""
    network = recipe.backbone()
    if isinstance(network, ForeignNetwork):
        model = network.record()
    else:
        model = config.model.published_arguments()
        if isinstance(network.head, nn.Linear):
            model["num_classes"] = network.head.out_features
    return {"model": model, "preprocess": asdict(data.preprocess), "train": encode(config)}


def callbacks(
    config: TrainConfig, data: build.Data, plan: Plan, group: Processes, *, evaluated: bool = True
) -> list[Callback]:
    """Return the callbacks of a run: the recipe's judge if there is a validation side, and the norms."""
    chosen: list[Callback] = []
    judge, judged_by = judge_of(config, data, group) if evaluated else None, config.recipe.judged_by
    if judge is not None:
        chosen.append(
            Callback("evaluation", plan.evaluate_every, judge, best=judged_by.metric, better=judged_by.better)
        )
    probes = build.probes_of(data, config.run.watch_images, config.run.watch_maps)
    if probes is not None:
        chosen.append(Callback("norms", plan.watch_every, partial(look, probes=probes), at_start=True))
    return chosen


def _refuse_foreign(folder: Path, resume: bool) -> None:
    """Refuse a folder where the run would replace files that no run wrote; finish the writes of a killed run.

    Raises:
        UserError: if a file of that name is not of a run.
    """
    finish_left(folder)
    journal, config = folder / "metrics.jsonl", folder / "config.json"
    if resume:
        ours = config.exists() and isinstance(read(config).get("train"), dict)
        # config.json may be edited, and old versions kept no list; `publish` backs up files it cannot identify.
        listed = [name for name in read_ledger(folder).files if name == checkpoint.MODEL]
        Outputs(folder, "train", listed if ours else checkpoint.PUBLISHED).check()
    elif not config.exists() or (read(config).get("step") == 0 and not _checkpoints(folder)):
        Outputs(folder, "train", [*checkpoint.PUBLISHED, "checkpoints/"]).check()
        Outputs(folder, "curves", ["report.html"]).check()
        if os.path.lexists(journal) and not (config.exists() and read_journal(folder)[1] <= 1):
            raise UserError(
                f"{journal} exists and is of no run in this folder; move it away, or name another with --out."
            )


def _record(folder: Path, config: TrainConfig, resume: bool, say: _Say) -> dict[str, Any] | None:
    """Check the folder, and return config.json of the run to resume, or None for a new run.

    Raises:
        UserError: for a folder of another run, or changed settings.
    """
    file, quoted = folder / "config.json", shlex.quote(str(folder))
    record = read(file) if file.exists() else None
    if not resume:
        if record is not None and checkpoint.latest(folder) is not None:
            raise UserError(f"{folder} holds a run already; go on with --resume {quoted}, or choose another --out.")
        if record is not None and (record.get("step") != 0 or _checkpoints(folder)):
            raise UserError(f"{folder} holds a run already, without a whole checkpoint; choose another --out.")
        if record is not None:
            say(f"the run in {folder} ended before its first checkpoint; beginning anew in its place.")
        return None
    if record is None:
        raise UserError(f"{folder} holds no run: there is no config.json; start one without --resume.")
    held = encode(decode(TrainConfig, record.get("train", {}), where=str(file)))  # with settings that came since
    changed = [d for d in differences(held, encode(config)) if d.split(":")[0] not in FREE]
    if changed:
        raise UserError(
            f"the run in {folder} was started with other settings ({'; '.join(changed)}); "
            f"a new run can start from it with --run.start-from {shlex.quote(f'run:{folder}')}."
        )
    return record


def _newest(folder: Path, published: object, plan: Plan, group: Processes, say: _Say) -> checkpoint.Loaded | None:
    """Return the checkpoint to resume from; None if none was ever written.

    Args:
        published: the step in config.json.
    Raises:
        UserError: if all checkpoints are damaged or gone, or the newest lies beyond the end of the plan.
    """
    if not _checkpoints(folder) and published != 0:
        came = "was finished before" if published == plan.total else f"came to step {published}"
        raise UserError(
            f"the run in {folder} {'says no step' if published is None else came}, and its checkpoints are gone; "
            f"start a new run from its weights with --run.start-from {shlex.quote(f'run:{folder}')} and another --out."
        )
    if not _checkpoints(folder):
        say("no checkpoint had been written; starting at the first step.")
        return None
    loaded = checkpoint.load_newest(folder, group)
    if loaded.step > plan.total:
        raise UserError(
            f"{loaded.path.name} in {folder} lies beyond the end of the run, which has {plan.total} steps with these data; "
            f"{remedy(folder)}."
        )
    for note in loaded.notes:
        say(note)
    ahead = checkpoint.published_step(folder)
    if ahead > loaded.step:
        say(f"model.safetensors stays that of step {ahead} until the run has come that far again.")
    lost = read_journal(folder)[1]
    if lost:
        say(unreadable_lines(lost))
    return loaded


def _checkpoints(folder: Path) -> bool:
    """Whether the run has any checkpoint, complete or not."""
    return any((folder / "checkpoints").glob("step-*"))
