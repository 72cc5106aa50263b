"""What can be wrong with a run before anything is opened or written: numbers out of range, durations that are none, draws
that cannot be made. A person learns of it at once, and not after a data set was listed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from vitreg.config import encode, flatten
from vitreg.errors import UserError
from vitreg.recipes.settings import DinoConfig, DinoV2Config, MaeConfig
from vitreg.schedule import parse_duration
from vitreg.training.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, with or without these two."""

    low: float = 0
    high: float = inf
    with_low: bool = True
    with_high: bool = True

    def holds(self, value: float) -> bool:
        """Say whether a number lies inside; NaN and infinity never do."""
        low = self.low <= value if self.with_low else self.low < value
        high = value <= self.high if self.with_high else value < self.high
        return low and high and value < inf

    def __str__(self) -> str:
        low = f"{_digits(self.low)} or more" if self.with_low else f"more than {_digits(self.low)}"
        if self.high == inf:
            return low
        return f"{low} and {'at most' if self.with_high else 'less than'} {_digits(self.high)}"


def _digits(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


COUNT, MAYBE, AMOUNT, FACTOR = Range(1), Range(0), Range(0), Range(0, with_low=False)
SHARE, BELOW_ONE = Range(0, 1), Range(0, 1, with_high=False)

# Only what no dataclass checks by itself. Settings that are unset, or of another recipe, are passed over.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("model.width", "model.depth", "model.heads", "model.patch", "model.image_size"), COUNT),
    "model.registers": Range(0, 1024),  # more than any sequence has patches; the paper tries 0 to 16
    **dict.fromkeys(("model.register_init", "model.token_init", "model.register_decorrelation"), AMOUNT),
    **dict.fromkeys(("model.drop_path", "model.register_dropout"), BELOW_ONE),
    **dict.fromkeys(("model.mlp_ratio", "model.norm_eps", "model.layer_scale"), FACTOR),
    "data.workers": MAYBE,
    **dict.fromkeys(("data.limit", "data.limit_val"), COUNT),
    **dict.fromkeys(("run.batch", "run.micro_batch", "run.keep", "run.log_every"), COUNT),
    "run.watch_images": MAYBE,
    "run.seed": Range(0, 2**63 - 1),  # what torch's generators take
    **dict.fromkeys(("optim.lr", "optim.eps", "optim.clip", "optim.layer_decay"), FACTOR),
    **dict.fromkeys(("optim.min_lr", "optim.warmup_lr", "optim.weight_decay", "optim.weight_decay_end"), AMOUNT),
    "optim.patch_embed_lr": AMOUNT,
    "optim.betas": BELOW_ONE,
    **dict.fromkeys(("recipe.group", "recipe.repeats", "recipe.epoch_steps"), COUNT),
    "recipe.context": Range(3),  # the start, a word, the end
    **dict.fromkeys(("recipe.prototypes", "recipe.hidden", "recipe.bottleneck"), COUNT),
    **dict.fromkeys(("recipe.ibot_prototypes", "recipe.ibot_bottleneck"), COUNT),
    **dict.fromkeys(("recipe.decoder_width", "recipe.decoder_depth", "recipe.decoder_heads"), COUNT),
    **dict.fromkeys(("recipe.embed_dim", "recipe.text_width", "recipe.text_heads", "recipe.text_layers"), COUNT),
    **dict.fromkeys(("recipe.student_temp", "recipe.teacher_temp", "recipe.teacher_temp_start"), FACTOR),
    **dict.fromkeys(("recipe.dino_weight", "recipe.ibot_weight", "recipe.koleo_weight"), AMOUNT),
    **dict.fromkeys(("recipe.teacher_temp_epochs", "recipe.freeze_last_layer"), AMOUNT),
    **dict.fromkeys(("recipe.ema", "recipe.momentum", "recipe.momentum_end", "recipe.centre_momentum"), SHARE),
}
DURATIONS = ("run.duration", "run.save_every", "run.evaluate_every", "run.watch_every", "optim.warmup")


def check_settings(config: TrainConfig) -> None:
    """Refuse a run that cannot be, as far as its settings alone tell.

    Raises:
        UserError: naming the setting and what it may be.
    """
    from vitreg.machine.runtime import choose_device

    check_values(config)
    _check_draws(config)
    choose_device(config.run.device)


def check_values(config: TrainConfig) -> None:
    """Do the part of `check_settings` for which nothing has to be drawn and no device be asked: no torch here.

    Raises:
        UserError: naming the setting and what it may be.
    """
    flat = flatten(encode(config))
    check_ranges(flat)
    config.model.arguments()
    for key in DURATIONS:
        _check_duration(key, flat[key])
    if config.run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--run.tensorboard needs the tensorboard package: pip install tensorboard.")
    if not config.data.root:
        raise UserError("no training images given; name them with --data.root.")


def check_ranges(flat: dict[str, Any]) -> None:
    """Refuse numbers out of range, by the flattened names of the settings. Raises UserError."""
    for key, value in flat.items():
        allowed = RANGES.get(key)
        for number in value if isinstance(value, list) else [value]:
            if allowed is not None and number is not None and not allowed.holds(number):
                raise UserError(f"{key} is {_digits(number)}; it must be {allowed}.")
            if isinstance(number, float) and not isfinite(number):
                raise UserError(f"{key} is {number}; it must be a finite number.")


def _check_duration(key: str, text: str) -> None:
    try:
        duration = parse_duration(text)
        if key == "run.duration":
            duration.steps(epoch_steps=1, batch=1)  # a percentage of itself is none
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if key == "run.duration" and not duration.amount:
        raise UserError(f"run.duration is '{text}'; a run has at least one step.")


def _check_draws(config: TrainConfig) -> None:
    """Make the draws of a step once where they can be impossible: the recipes say why by themselves."""
    import torch

    from vitreg.recipes.masking import draw_block_masks, keep_and_restore

    recipe, model = config.recipe, config.model
    rows = model.image_size // model.patch
    if isinstance(recipe, DinoV2Config):
        draw_block_masks(2 * recipe.group, (rows, rows), recipe.masks, torch.Generator())
        if recipe.koleo_weight and recipe.group < 2:
            raise UserError("KoLeo compares images of a group, and recipe.group is 1; make it 2 or koleo_weight 0.")
    if isinstance(recipe, MaeConfig):
        keep_and_restore(1, rows * rows, recipe.mask_ratio, torch.Generator())
    if isinstance(recipe, DinoV2Config | DinoConfig) and recipe.crops.local_crops:
        local = recipe.crops.local_size
        if local % model.patch:
            near = max(1, round(local / model.patch)) * model.patch
            raise UserError(
                f"recipe.crops.local_size {local} is no multiple of the {model.patch}-pixel patch; {near} is."
            )
    if model.drop_path and model.drop_path_mode == "subset" and recipe.group == 1:
        raise UserError(
            "drop_path_mode subset leaves out some images of each group, and recipe.group is 1; make it larger."
        )
