"""One process and two train every recipe to the same weights, through the product's loop, with everything random switched on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.apart import meeting, on_two
from tests.contracts.recipes.tiny_recipes import ALL_KNOBS, MODEL, RECIPES, batch_of, build

from vitreg.machine.runtime import Processes, processes
from vitreg.models.settings import ModelConfig
from vitreg.recipes.settings import OptimConfig
from vitreg.training import checkpoint
from vitreg.training.fit import fit
from vitreg.training.plan import Plan
from vitreg.training.settings import RunConfig, TrainConfig
from vitreg.training.setup import Setup

BATCH, STEPS, SEED = 8, 5, 3
# Rounding makes gradients that are zero (of the keys' biases) into noise, and AdamW with a small eps noise into steps.
OPTIM = OptimConfig(
    lr=1e-2,
    min_lr=1e-3,
    eps=1e-3,
    weight_decay=0.1,
    layer_decay=0.8,
    clip=0.5,
    clip_each_module=True,
    decay_tokens=True,
)
DRAWN = replace(
    MODEL, **ALL_KNOBS
)  # stochastic depth and hidden registers; masks, Mixup and KoLeo are the recipes' own


# Timm's model as the network.
FOREIGN = ModelConfig(base="timm:test_vit", base_weights="random", image_size=32)
BASED = " with a base"


def model_of(name):
    """The settings of the network: a name may ask for a model of another library."""
    return FOREIGN if name.endswith(BASED) else DRAWN


def train(folder, name, group, mode="ddp", *, seed=SEED, micro=None, shift=0):
    """Five steps of a recipe on this process's share of the global batches; what is left lies in the folder."""
    recipe, model = RECIPES[name.removesuffix(BASED)], model_of(name)
    folder.mkdir(parents=True, exist_ok=True)

    def batches(first):
        for step in range(first, STEPS):
            share = batch_of(recipe, step, BATCH).split(BATCH // group.world)[group.rank]
            yield replace(share, first=share.first + shift)

    setup = Setup(
        batches=batches, mean=(0.0,) * 3, std=(1.0,) * 3, folder=folder, device=torch.device("cpu"),
        precision=torch.float32, group=group, published={"model": {}},
    )  # fmt: skip
    config = TrainConfig(optim=OPTIM, run=RunConfig(batch=BATCH, micro_batch=micro, parallel=mode, seed=SEED))
    plan = Plan(total=STEPS, epoch_steps=2, warmup=1, save_every=STEPS, evaluate_every=STEPS, watch_every=STEPS)
    fit(build(recipe, model, seed), config, plan, setup)


def on_two_processes(rank, folder, env, names, mode, micro):
    torch.set_num_threads(1)
    env = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with pytest.MonkeyPatch.context() as patched:
        for key, value in env.items():
            patched.setenv(key, value)
        with processes(training=True) as group:
            for name in names:  # another seed on each process: all start from the weights of the first
                train(folder / name, name, group, mode, seed=SEED + rank, micro=micro)


def usable(names):
    try:
        import open_clip  # noqa: F401
    except ImportError:
        return [name for name in names if not name.startswith("clip")]
    return list(names)


def spawn(folder, names, mode="ddp", micro=None):
    with meeting() as env:
        on_two(on_two_processes, folder, env, usable(names), mode, micro)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of a recipe: its last checkpoint, made once."""
    folder, done = tmp_path_factory.mktemp("one"), {}

    def run(name):
        if name not in usable([name]):
            pytest.skip("open_clip is not installed")
        if name not in done:
            train(folder / name, name, Processes())
            done[name] = checkpoint.load_newest(folder / name)
        return done[name]

    return run


def largest_difference(found, wanted):
    """Over all weights, buffers and moments, of the tensors' largest values where these are above 1."""
    assert found.step == wanted.step == STEPS
    found, wanted = ({**run.model, **run.optimizer.tensors} for run in (found, wanted))
    assert found.keys() == wanted.keys()
    return max(
        (float((found[name] - value).abs().max() / value.abs().max().clamp(min=1)), name)
        for name, value in wanted.items()
        if value.isfinite().all()
    )


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return spawn(tmp_path_factory.mktemp("ddp"), RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_two_copies_train_as_one_process(name, one, copies):
    wanted = one(name)
    difference, where = largest_difference(checkpoint.load_newest(copies / name), wanted)
    assert difference <= 1e-5, where


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_model_of_another_library_trains_alike_on_two(mode, one, tmp_path):
    names = [f"supervised ema{BASED}", f"dino{BASED}"]
    spawn(tmp_path, names, mode)
    for name in names:
        difference, where = largest_difference(checkpoint.load_newest(tmp_path / name), one(name))
        assert difference <= 1e-5, (name, where)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "micro"), [("fsdp", None), ("ddp", 2), ("fsdp", 2)], ids=["shards", "copies in parts", "shards in parts"]
)
def test_shards_and_micro_batches_train_as_one_process(mode, micro, one, tmp_path):
    names = [n for n in usable(RECIPES) if micro is None or build(RECIPES[n], DRAWN, 0).why_whole_batch() is None]
    assert len(names) >= 6
    spawn(tmp_path, names, mode, micro)
    found = {name: largest_difference(checkpoint.load_newest(tmp_path / name), one(name)) for name in names}
    assert {name: what for name, what in found.items() if what[0] > 1e-5} == {}


@pytest.mark.parametrize("name", RECIPES)
def test_other_draws_would_be_seen(name, one, tmp_path):
    wanted = one(name)
    train(tmp_path, name, Processes(), shift=2)
    assert largest_difference(checkpoint.load_newest(tmp_path), wanted)[0] > 1e-3
