"""Checks of a run before any file is opened: numbers out of range, invalid durations, impossible draws. Mistakes are
reported at once, not after a data set is listed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from math import isfinite
from typing import Any

from vitreg import specs
from vitreg.config import AMOUNT, BELOW_ONE, COUNT, FACTOR, MAYBE, Range, digits, encode, flatten
from vitreg.errors import UserError
from vitreg.models.settings import NOT_OF_A_BASE, UNTRAINED
from vitreg.schedule import parse_duration
from vitreg.training.settings import TrainConfig

# Only ranges that no dataclass checks. A recipe names its own ranges; unset settings pass.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("model.width", "model.depth", "model.heads", "model.patch", "model.image_size"), COUNT),
    "model.registers": Range(0, 1024),  # more than any sequence has patches; the paper tries 0 to 16
    **dict.fromkeys(("model.register_init", "model.token_init", "model.register_decorrelation"), AMOUNT),
    **dict.fromkeys(("model.drop_path", "model.register_dropout"), BELOW_ONE),
    **dict.fromkeys(("model.mlp_ratio", "model.norm_eps", "model.layer_scale"), FACTOR),
    "data.workers": MAYBE,
    **dict.fromkeys(("data.limit", "data.limit_val"), COUNT),
    **dict.fromkeys(("run.batch", "run.micro_batch", "run.keep", "run.log_every"), COUNT),
    **dict.fromkeys(("run.watch_images", "run.watch_maps"), MAYBE),
    "run.seed": Range(0, 2**63 - 1),  # the range of torch's generators
    **dict.fromkeys(("optim.lr", "optim.eps", "optim.clip", "optim.layer_decay"), FACTOR),
    **dict.fromkeys(("optim.min_lr", "optim.warmup_lr", "optim.weight_decay", "optim.weight_decay_end"), AMOUNT),
    "optim.patch_embed_lr": AMOUNT,
    "optim.betas": BELOW_ONE,
}
DURATIONS = (
    "run.duration",
    "run.until_more",
    "run.save_every",
    "run.evaluate_every",
    "run.watch_every",
    "optim.warmup",
)


def check_settings(config: TrainConfig) -> None:
    """Refuse a run whose settings alone show that it cannot work.

    Raises:
        UserError: naming the setting and what it may be.
    """
    from vitreg.machine.runtime import choose_device

    check_values(config)
    _check_recipe(config)
    choose_device(config.run.device)


def check_values(config: TrainConfig) -> None:
    """Do the checks of `check_settings` that need no random draw and no device. No torch here.

    Raises:
        UserError: naming the setting and what it may be.
    """
    flat = flatten(encode(config))
    check_ranges(flat, RANGES | {f"recipe.{name}": allowed for name, allowed in config.recipe.ranges.items()})
    if config.model.base is None:
        _check_own(config)
    else:
        _check_base(config, config.model.base)
    for key in DURATIONS:
        _check_duration(key, flat[key])
    if config.run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--run.tensorboard needs the tensorboard package: pip install tensorboard.")
    if not config.data.root:
        raise UserError("no training images given; name them with --data.root.")


def _check_own(config: TrainConfig) -> None:
    if config.model.base_weights is not None:
        raise UserError("--model.base-weights are of a --model.base, and none is named.")
    config.model.arguments()


def _check_base(config: TrainConfig, base: str) -> None:
    """Refuse settings that only vitreg's own ViT supports. Raises UserError."""
    model, recipe = config.model, config.recipe
    untrained = model.base_weights == UNTRAINED
    specs.refuse(base, random=untrained, weights=None if untrained else model.base_weights, trust=True)
    if base.startswith("hub:"):
        raise UserError(f"{base} runs the code of its repository, which training does not; name another --model.base.")
    if recipe.own_vit:
        raise UserError(
            f"--recipe.kind {recipe.kind} {recipe.own_vit}, which only vitreg's own ViT can; leave --model.base out, and "
            f"begin with its weights by --run.start-from {base}."
        )
    for name in NOT_OF_A_BASE:
        if getattr(model, name):
            flag = f"--model.{name.replace('_', '-')}"
            raise UserError(f"{flag} is for vitreg's own ViT, not for --model.base {base}; set {flag} 0.")
    if config.run.start_from is not None:
        raise UserError("--model.base and --run.start-from both say what the weights begin with; leave one out.")
    if config.run.checkpoint_activations:
        raise UserError("--run.checkpoint-activations is for vitreg's own ViT; leave it out with --model.base.")


def check_ranges(flat: dict[str, Any], ranges: Mapping[str, Range]) -> None:
    """Refuse numbers out of range, by the flattened names of the settings. Raises UserError."""
    for key, value in flat.items():
        allowed = ranges.get(key)
        for number in value if isinstance(value, list) else [value]:
            if allowed is not None and number is not None and not allowed.holds(number):
                raise UserError(f"{key} is {digits(number)}; it must be {allowed}.")
            if isinstance(number, float) and not isfinite(number):
                raise UserError(f"{key} is {number}; it must be a finite number.")


def _check_duration(key: str, text: str) -> None:
    try:
        duration = parse_duration(text)
        if key == "run.duration":
            duration.steps(epoch_steps=1, batch=1)  # refuses a percentage: it would be of itself
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if key == "run.duration" and not duration.amount:
        raise UserError(f"run.duration is '{text}'; a run has at least one step.")


def _check_recipe(config: TrainConfig) -> None:
    """Ask the recipe whether it can train this model; some recipes draw one step to find out."""
    recipe, model = config.recipe, config.model
    objections = list(recipe.check(model))
    if objections:
        raise UserError(objections[0])
    if model.drop_path and model.drop_path_mode == "subset" and recipe.group == 1:
        raise UserError(
            "drop_path_mode subset leaves out some images of each group, and recipe.group is 1; make it larger."
        )
