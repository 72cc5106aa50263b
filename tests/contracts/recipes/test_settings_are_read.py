"""No knob that nothing reads: every field of every recipe's, model's and optimiser's configuration changes what it should.

A table names for each field another value and where the difference shows: in the bytes of a view, in the order of the
samples, in weights as they are built, in losses and the state that follows, in parameter groups, in rates, or in a run
of the loop. A field that is in no table fails, and so does one of a nested configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contracts.recipes.tiny_recipes import CLASSES, MODEL, RECIPES, batch_of

from vitreg.data.sets.settings import DataConfig
from vitreg.data.views.settings import MixConfig
from vitreg.machine.runtime import Processes
from vitreg.recipes.clip import Clip
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import ClipConfig, OptimConfig
from vitreg.training import checkpoint
from vitreg.training.fit import fit
from vitreg.training.optim import rates
from vitreg.training.plan import Plan
from vitreg.training.settings import RunConfig, TrainConfig
from vitreg.training.setup import Setup
from vitreg.verbs.train.build import Data, build_recipe, loader_of, open_data, plan_of


@dataclass(frozen=True)
class Change:
    """Another value of a field, the place where it shows, and what must be set for the field to matter."""

    value: Any
    shows: str
    given: dict[str, Any] = field(default_factory=dict)


# Places where a difference shows: each turns a whole configuration into something that compares.


def view(config, _folder):
    """Bytes of the crops of a picture, in several draws."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    cut = config.recipe.view(config.model.image_size)
    seen = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(16):
            torch.manual_seed(seed)
            seen.append([(tuple(stack.shape), stack.numpy().tobytes()) for stack in cut(picture)])
    return seen


def batch(config, folder):
    """Names of the samples of the first steps."""
    for label in range(2):
        (folder / str(label)).mkdir(exist_ok=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (80 * label, 40 * number, 0)).save(folder / str(label) / f"{number}.png")
    data = open_data(replace(config, data=DataConfig(root=str(folder), workers=0)))
    loader = loader_of(config, data, 3, 0, Processes())
    return [[Path(name).parts[-2:] for name in one.names] for one in loader]


def built(config):
    return build_recipe(config, CLASSES)


def weights(config, _folder):
    """Names, shapes and values of all that is built, and what of it is trained."""
    recipe = built(config)
    return [
        (name, tuple(p.shape), p.requires_grad, p.detach().double().sum().item())
        for name, p in recipe.named_parameters()
    ]


def batch_for(config, step, samples=4):
    """A batch that suits the configuration: as many local crops and words as it says."""
    recipe, found = config.recipe, batch_of(config.recipe, step, samples)
    side = config.model.image_size
    views = [
        torch.nn.functional.interpolate(v.flatten(0, 1), (side, side)).unflatten(0, v.shape[:2])
        for v in found.views[:1]
    ]
    targets = found.targets
    if isinstance(recipe, ClipConfig):
        targets = torch.cat([targets[:, : recipe.context - 1], targets[:, -1:]], dim=1)
    return replace(found, views=(*views, *found.views[1:]), targets=targets)


def loss(config, _folder):
    """Losses of two steps, far apart, with their terms, and all state after them."""
    recipe = built(config)
    if isinstance(recipe, Clip):
        recipe.logit_scale.data.fill_(9.0)  # beyond every limit that it may be kept in
    seen = []
    for step in (5, 6):
        progress = Progress(step=step, total=20, epoch_steps=4, seed=3)
        output = recipe(batch_for(config, step), progress)
        seen += [output.loss.item(), *(value.item() for value in output.metrics.values())]
        for p in recipe.parameters():
            if p.requires_grad:  # an optimiser's step
                p.data.mul_(0.9)
        recipe.after_step(progress)
    return [*seen, *(value.double().sum().item() for value in recipe.state_dict().values())]


def prepared(config, _folder):
    """How pictures are prepared."""
    return config.recipe.preprocess(config.model.image_size)


def answer(config, _folder):
    """What evaluation reads."""
    with torch.no_grad():
        return built(config).backbone()(batch_for(config, 0).views[0][0]).tolist()


def groups(config, _folder):
    """The treatment of every parameter."""
    return sorted(
        (name, group.lr_scale, group.decay_scale, group.module, group.frozen_steps)
        for group in built(config).parameter_groups(config.optim)
        for name in group.names
    )


def scheduled(config, _folder):
    """Learning rate and decay of every step of a run."""
    steps = plan_of(config, Data(**dict.fromkeys(("train", "val", "view", "preprocess", "notes")), order=Twelve()))
    return [
        rates(
            config.optim, Progress(step=step, total=12, epoch_steps=steps.epoch_steps), steps.warmup, config.run.batch
        )
        for step in range(12)
    ]


class Twelve:
    """An order of samples that is as long as three batches."""

    epoch_length = 12


def run(config, folder):
    """Weights after three steps of the loop."""
    setup = Setup(
        batches=lambda first: (batch_for(config, step) for step in range(first, 3)), mean=(0.0,) * 3, std=(1.0,) * 3,
        folder=folder, device=torch.device("cpu"), precision=torch.float32, group=Processes(),
        published={"model": config.model.arguments()},
    )  # fmt: skip
    plan = Plan(total=3, epoch_steps=2, warmup=0, save_every=3, evaluate_every=3, watch_every=3)
    fit(built(config), config, plan, setup)
    return [value.double().sum().item() for value in checkpoint.load_newest(folder).model.values()]


PLACES = {
    "view": view, "batch": batch, "weights": weights, "loss": loss, "prepared": prepared, "answer": answer,
    "groups": groups, "rates": scheduled, "run": run,
}  # fmt: skip

# The tables.

AUGMENT = {
    "crop": Change("rrc", "view"),
    "scale": Change((0.5, 0.6), "view", {"crop": "rrc"}),
    "flip": Change(1.0, "view"),
    "three_augment": Change(False, "view"),
    "colour_jitter": Change(0.1, "view"),
    "rand_augment": Change("rand-m9-mstd0.5-inc1", "view"),
}
MIX = {
    "mixup": Change(0.1, "loss", {"cutmix": 0.0}),
    "cutmix": Change(0.1, "loss", {"mixup": 0.0}),
    "prob": Change(0.0, "loss"),
    "switch_prob": Change(1.0, "loss", {"switch_prob": 0.0}),
    "mode": Change("elem", "loss"),
    "smoothing": Change(0.3, "loss"),
}
CROPS = {
    "local_crops": Change(1, "view"),
    "local_size": Change(24, "view"),
    "global_scale": Change((0.9, 1.0), "view"),
    "local_scale": Change((0.9, 1.0), "view"),
    "flip": Change(1.0, "view"),
    "colour_jitter": Change((0.4, 0.4, 0.2, 0.5), "view"),
    "jitter": Change(0.0, "view"),
    "grey": Change(1.0, "view"),
    "solarize": Change(1.0, "view"),
    "blur": Change("intended", "view", {"blur": "official"}),
    "blur_filter": Change("pillow", "view", {"blur_filter": "gauss9"}),
}
MASKS = {"share": Change(1.0, "loss"), "ratio": Change((0.6, 0.8), "loss")}
SUPERVISED = {
    "loss": Change("bce", "loss", {"mix": MixConfig(smoothing=0.0)}),
    "augment": AUGMENT,
    "mix": MIX,
    "repeats": Change(3, "batch"),
    "ema": Change(0.5, "loss", {"ema": 0.9}),
    "group": Change(4, "loss"),
}
CLIP = {
    "crop_scale": Change((0.1, 0.2), "view"),
    "embed_dim": Change(10, "weights"),
    "text_width": Change(20, "weights"),
    "text_heads": Change(4, "loss"),
    "text_layers": Change(1, "weights"),
    "context": Change(6, "weights"),
    "scale_start": Change(20.0, "weights"),
    "scale_max": Change(50.0, "loss"),
    "group": Change(4, "loss"),
}
MAE = {
    "crop_scale": Change((0.1, 0.2), "view"),
    "mask_ratio": Change(0.5, "loss"),
    "norm_pixels": Change(False, "loss"),
    "decoder_width": Change(32, "weights"),
    "decoder_depth": Change(2, "weights"),
    "decoder_heads": Change(3, "loss"),
    "group": Change(4, "loss"),
}
DINO = {
    "crops": CROPS,
    "prototypes": Change(32, "weights"),
    "hidden": Change(20, "weights"),
    "bottleneck": Change(14, "weights"),
    "norm_last_layer": Change(False, "weights", {"norm_last_layer": True}),
    "student_temp": Change(0.2, "loss"),
    "teacher_temp_start": Change(0.05, "loss", {"teacher_temp_epochs": 4.0, "teacher_temp": 0.07}),
    "teacher_temp": Change(0.09, "loss", {"teacher_temp_epochs": 4.0}),
    "teacher_temp_epochs": Change(8.0, "loss", {"teacher_temp_epochs": 4.0, "teacher_temp": 0.07}),
    "centre_momentum": Change(0.5, "loss"),
    "momentum": Change(0.5, "loss"),
    "momentum_end": Change(0.999, "loss"),
    "freeze_last_layer": Change(3.0, "groups"),
    "epoch_steps": Change(7, "rates"),
    "group": Change(4, "loss"),
}
DINOV2 = DINO | {
    "masks": MASKS,
    "separate_heads": Change(False, "weights"),
    "ibot_prototypes": Change(32, "weights"),
    "ibot_bottleneck": Change(10, "weights"),
    "centring": Change("sinkhorn", "loss"),
    "dino_weight": Change(2.0, "loss"),
    "ibot_weight": Change(2.0, "loss"),
    "koleo_weight": Change(0.2, "loss"),
}
REGRESSION = {
    "channels": Change(7, "weights"),
    "own": Change(3, "loss"),
    "init": Change("usual", "weights"),
    "mean": Change((0.5, 0.5, 0.5), "prepared"),
    "std": Change((0.5, 0.5, 0.5), "prepared"),
    "group": Change(4, "loss"),
}
MODELS = {
    "size": Change("T", "weights", {"width": None, "heads": None, "size": "S"}),
    "width": Change(40, "weights"),
    "depth": Change(1, "weights"),
    "heads": Change(4, "loss"),
    "patch": Change(4, "weights"),
    "image_size": Change(40, "weights"),
    "registers": Change(3, "weights"),
    "register_init": Change(0.5, "weights"),
    "register_positions": Change(True, "weights"),
    "register_depth": Change(1, "loss"),
    "register_attention": Change("slots", "loss"),
    "register_dropout": Change(0.5, "loss"),
    "register_decorrelation": Change(0.5, "loss"),
    "mlp": Change("swiglu", "weights"),
    "mlp_ratio": Change(2.0, "weights"),
    "layer_scale": Change(0.1, "weights"),
    "drop_path": Change(0.5, "loss"),
    "drop_path_mode": Change("subset", "loss", {"drop_path": 0.5}),
    "token_init": Change(0.5, "weights"),
    "pool": Change("mean", "loss"),
    "pre_norm": Change(True, "weights"),
    "norm_eps": Change(1e-2, "loss"),
    "norm": Change("rmsnorm", "weights"),
    "attention": Change("off-by-one", "loss"),
    "gate": Change(True, "weights"),
    "cls_token": Change(False, "weights"),
    "positions": Change("none", "weights"),
    "rope_base": Change(10.0, "loss", {"positions": "rope"}),
    "bias": Change(False, "weights"),
    "frozen_patch_embed": Change(True, "weights"),
}
OPTIM = {
    "name": Change("lamb", "run"),
    "lr": Change(2e-3, "rates"),
    "lr_scaling": Change("linear512", "rates"),
    "min_lr": Change(1e-4, "rates"),
    "warmup": Change("2 epochs", "rates"),
    "warmup_lr": Change(1e-4, "rates"),
    "curve": Change("clip", "rates"),
    "per_epoch": Change(True, "rates"),
    "betas": Change((0.5, 0.6), "run"),
    "eps": Change(1e-2, "run"),
    "weight_decay": Change(0.3, "rates"),
    "weight_decay_end": Change(0.4, "rates"),
    "layer_decay": Change(0.5, "groups"),
    "patch_embed_lr": Change(0.5, "groups"),
    "clip": Change(0.01, "run", {"eps": 1e-3}),
    "clip_each_module": Change(True, "run", {"eps": 1e-3, "clip": 0.01}),
    "decay_tokens": Change(True, "groups"),
}
TABLES = {
    "supervised ce": SUPERVISED, "clip": CLIP, "mae": MAE, "dinov2 softmax": DINOV2, "dino": DINO, "regression": REGRESSION,
}  # fmt: skip


def walk(table, path=()):
    """Every field of a table and of those inside it: its path and its change."""
    for name, what in table.items():
        if isinstance(what, dict):
            yield from walk(what, (*path, name))
        else:
            yield (*path, name), what


def changed(config, path, **values):
    """A configuration with other values of the part that lies under the path."""
    if not path:
        return replace(config, **values)
    return replace(config, **{path[0]: changed(getattr(config, path[0]), path[1:], **values)})


def complete(name, **part):
    """A whole configuration of a tiny run of a recipe, whose stochastic depth shows how samples are grouped."""
    recipe = RECIPES[name]
    whole = {
        "recipe": recipe, "model": replace(MODEL, drop_path=0.3),
        "optim": OptimConfig(warmup="1 epochs"), "run": RunConfig(batch=4, duration="12 steps"),
    }  # fmt: skip
    return TrainConfig(**(whole | part))


OF_A_BASE = ("base", "base_weights")  # shown by tests/unit/recipes/test_foreign_base.py

# MAE learns without a pool, its decoder reads all tokens; so does regression, whose head reads patches.
ELSEWHERE = {("mae", "pool"): "answer", ("regression", "pool"): "answer"}
REFUSED = {("mae", "positions"), ("mae", "rope_base")}  # by `MaeConfig.check`
CASES = [
    *((name, ("recipe", *path), change) for name, table in TABLES.items() for path, change in walk(table)),
    *(
        (name, ("model", field_), replace(change, shows=ELSEWHERE.get((name, field_), change.shows)))
        for name in TABLES
        for field_, change in MODELS.items()
        if (name, field_) not in REFUSED
    ),
    *(("dinov2 softmax", ("optim", field_), change) for field_, change in OPTIM.items()),
]


@pytest.mark.parametrize(
    ("name", "path", "change"), CASES, ids=[f"{name}: {'.'.join(path)}" for name, path, _ in CASES]
)
def test_every_setting_shows(name, path, change, tmp_path):
    if name == "clip":
        pytest.importorskip("open_clip", reason="open_clip is not installed")
    config = complete(name)
    if path[0] == "model":
        config = replace(config, model=replace(config.model, drop_path=0.0))
    plain = changed(config, path[:-1], **change.given)
    other = changed(plain, path[:-1], **{path[-1]: change.value})
    assert plain != other
    look = PLACES[change.shows]
    one, again, two = (tmp_path / part for part in ("one", "again", "two"))
    for folder in (one, again, two):
        folder.mkdir()
    found = look(plain, one)
    assert found == look(plain, again), "this place shows differences where there are none"
    assert found != look(other, two)


def assert_complete(config, table):
    """All fields of a configuration are in its table, and so are those of the configurations in it."""
    assert table.keys() == {entry.name for entry in fields(config)} - {"kind"}
    for name, what in table.items():
        value = getattr(config, name)
        assert isinstance(what, dict) == is_dataclass(value), name
        if isinstance(what, dict):
            assert_complete(value, what)


def test_no_setting_is_left_out():
    for name, table in TABLES.items():
        assert_complete(RECIPES[name], table)
    whole = complete("dino")
    assert_complete(whole.model, MODELS | dict.fromkeys(OF_A_BASE))
    assert_complete(whole.optim, OPTIM)
    without = {type(recipe).__name__ for recipe in RECIPES.values()} - {type(RECIPES[name]).__name__ for name in TABLES}
    assert not without, f"give {without} a table like `MAE` in test_settings_are_read.py, and name it in `TABLES`"
