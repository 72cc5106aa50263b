"""Optimiser steps against naive transcriptions of the updates, and the rates of every group at every step."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import OptimConfig
from vitreg.training.optim import Rates, build_optimizer, clip_gradients, rates, scaled_lr, set_rates

DECAYED, PLAIN, LAST = "layer.weight", "layer.bias", "head.last_layer"


def make_groups(seed=0):
    draw = torch.Generator().manual_seed(seed)

    def parameter(*shape):
        return nn.Parameter(torch.randn(*shape, generator=draw, dtype=torch.float64))

    return [
        ParamGroup((DECAYED,), (parameter(3, 4),), lr_scale=0.5),
        ParamGroup((PLAIN,), (parameter(4),), decay_scale=0.0),
        ParamGroup((LAST,), (parameter(2, 2),), module="head", frozen_steps=2),
    ]


def gradients(steps=4, scale=3.0):
    """The gradient of each parameter at each step, the same for whoever is compared."""
    draw = torch.Generator().manual_seed(9)
    shapes = {DECAYED: (3, 4), PLAIN: (4,), LAST: (2, 2)}
    # The last ones are small: below the clip of LAMB nothing may be scaled.
    return [
        {n: (scale if i < steps - 1 else 0.01) * torch.randn(s, generator=draw).double() for n, s in shapes.items()}
        for i in range(steps)
    ]


def at(step, total=10):
    return Progress(step=step, total=total, epoch_steps=2)


def train(groups, config, steps=4, warmup=0, optimizer=None, start=0):
    """Run some steps as the loop does, without a loss."""
    optimizer = optimizer or build_optimizer(groups, config)
    for step, grads in list(enumerate(gradients(steps)))[start:]:
        set_rates(optimizer, groups, config, at(step), warmup, 1024)
        for group in groups:
            for name, parameter in zip(group.names, group.params, strict=True):
                parameter.grad = grads[name].clone()
        clip_gradients(groups, config)
        optimizer.step()
    return {name: p.detach() for group in groups for name, p in zip(group.names, group.params, strict=True)}


def schedule(config, groups, steps=4):
    """By hand for no warm-up: {name: [(lr, weight decay) of each step]}."""
    wd_end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    table = {}
    for group in groups:
        for name in group.names:
            table[name] = []
            for step in range(steps):
                fall = 0.5 * (1 + math.cos(math.pi * step / 10))
                lr = (config.min_lr + (config.lr - config.min_lr) * fall) * group.lr_scale
                lr = 0.0 if name == LAST and step < 2 else lr
                table[name].append((lr, (wd_end + (config.weight_decay - wd_end) * fall) * group.decay_scale))
    return table


def naive_adamw(groups, config, steps=4):
    """Loshchilov and Hutter 2019, Algorithm 2, one number at a time."""
    beta1, beta2 = config.betas
    table, result = schedule(config, groups), {}
    for group in groups:
        for name, parameter in zip(group.names, group.params, strict=True):
            w = parameter.detach().flatten().tolist()
            m, v = [0.0] * len(w), [0.0] * len(w)
            for step in range(steps):
                lr, wd = table[name][step]
                for i, g in enumerate(gradients(steps)[step][name].flatten().tolist()):
                    m[i] = beta1 * m[i] + (1 - beta1) * g
                    v[i] = beta2 * v[i] + (1 - beta2) * g * g
                    m_hat, v_hat = m[i] / (1 - beta1 ** (step + 1)), v[i] / (1 - beta2 ** (step + 1))
                    w[i] -= lr * (m_hat / (math.sqrt(v_hat) + config.eps) + wd * w[i])
            result[name] = torch.tensor(w, dtype=torch.float64).view_as(parameter)
    return result


def naive_lamb(groups, config, steps=4):
    """You et al. 2020, Algorithm 2, as apex has it: gradients clipped to a global norm of 1, trust ratio where wd != 0."""
    beta1, beta2 = config.betas
    table = schedule(config, groups)
    w = {n: p.detach().flatten().tolist() for group in groups for n, p in zip(group.names, group.params, strict=True)}
    m, v = ({name: [0.0] * len(values) for name, values in w.items()} for _ in range(2))
    for step, grads in enumerate(gradients(steps)):
        grads = {name: grad.flatten().tolist() for name, grad in grads.items()}
        norm = math.sqrt(sum(g * g for grad in grads.values() for g in grad))
        for name, values in w.items():
            lr, wd = table[name][step]
            update = []
            for i, g in enumerate(grads[name]):
                g = g / max(1.0, norm)
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * g * g
                m_hat = m[name][i] / (1 - beta1 ** (step + 1))
                v_hat = v[name][i] / (1 - beta2 ** (step + 1))
                update.append(m_hat / (math.sqrt(v_hat) + config.eps) + wd * values[i])
            trust = 1.0
            if wd != 0:
                trust = math.sqrt(sum(x * x for x in values)) / math.sqrt(sum(u * u for u in update))
            w[name] = [x - lr * trust * u for x, u in zip(values, update, strict=True)]
    return {
        n: torch.tensor(w[n], dtype=torch.float64).view_as(p)
        for group in groups
        for n, p in zip(group.names, group.params, strict=True)
    }


@pytest.mark.parametrize("naive", [naive_adamw, naive_lamb])
@pytest.mark.parametrize("weight_decay_end", [None, 0.4])
def test_the_update_is_that_of_the_paper(naive, weight_decay_end):
    name = "adamw" if naive is naive_adamw else "lamb"
    config = OptimConfig(
        name=name, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, weight_decay_end=weight_decay_end
    )
    expected = naive(make_groups(), config)
    for key, value in train(make_groups(), config).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_frozen_group_stays_and_then_learns(name):
    config = OptimConfig(name=name, lr=0.1)
    start = make_groups()[2].params[0].detach()
    assert torch.equal(train(make_groups(), config, steps=2)[LAST], start)
    assert not torch.equal(train(make_groups(), config, steps=2)[DECAYED], make_groups()[0].params[0])
    assert not torch.equal(train(make_groups(), config, steps=3)[LAST], start)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_resumed_optimiser_goes_on_as_if_nothing_had_happened(name):
    config = OptimConfig(name=name, lr=0.1)
    through = train(make_groups(), config, steps=4)
    groups, config = make_groups(), config
    first = build_optimizer(groups, config)
    for step, grads in enumerate(gradients()[:2]):
        set_rates(first, groups, config, at(step), 0, 1024)
        for group in groups:
            group.params[0].grad = grads[group.names[0]].clone()
        first.step()
    state = copy.deepcopy(first.state_dict())
    fresh = build_optimizer(groups, config)
    fresh.load_state_dict(state)
    resumed = train(groups, config, optimizer=fresh, start=2)
    assert all(torch.equal(resumed[key], through[key]) for key in through)


def test_rates_of_a_step_reach_every_group():
    groups, config = make_groups(), OptimConfig(lr=1.0, min_lr=0.0, weight_decay=0.04, weight_decay_end=0.2)
    optimizer = build_optimizer(groups, config)
    now = set_rates(optimizer, groups, config, at(5), 2, 1024)
    # after 2 steps of warm-up, step 5 is 3/8 of the way down; decay is half way along a cosine of 10
    assert now.lr == pytest.approx(0.5 * (1 + math.cos(math.pi * 3 / 8)))
    assert now.weight_decay == pytest.approx(0.12)
    assert [g["lr"] for g in optimizer.param_groups] == [now.lr * 0.5, now.lr, now.lr]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [now.weight_decay, 0.0, now.weight_decay]
    set_rates(optimizer, groups, config, at(1), 0, 1024)
    assert [g["lr"] == 0 for g in optimizer.param_groups] == [False, False, True]


def test_golden_rates_of_dinov2_vitl14():
    config = OptimConfig(lr=2e-4, lr_scaling="sqrt1024", min_lr=1e-6, weight_decay=0.04, weight_decay_end=0.2)

    def now(step):
        return rates(config, Progress(step=step, total=625_000, epoch_steps=1250), 100_000, 3072)

    assert now(0) == Rates(0.0, 0.04)
    assert now(99_999).lr == now(100_000).lr == pytest.approx(3.464e-4, abs=5e-8)
    assert now(312_500).weight_decay == pytest.approx(0.12)
    assert now(625_000) == Rates(1e-6, 0.2)


def test_golden_rates_of_deit_iii_on_imagenet_21k():
    config = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_lr=1e-6, weight_decay=0.02, curve="deit", per_epoch=True)

    def lr(epoch, middle=0):
        return rates(config, Progress(step=100 * epoch + middle, total=24_000, epoch_steps=100), 500, 2048).lr

    assert lr(0) == lr(0, 99) == lr(1) == lr(1, 99) == 1e-6
    assert lr(2) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 5)
    assert lr(121) == pytest.approx((1e-3 + 1e-5) / 2)
    assert lr(239) > 1e-5  # one epoch late: the end is not reached


def test_weight_decay_moves_at_every_step_even_where_the_learning_rate_moves_per_epoch():
    config = OptimConfig(weight_decay=0.04, weight_decay_end=0.2, per_epoch=True)
    assert rates(config, at(5), 0, 1024).weight_decay == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("lr", "scaling", "batch", "peak"),
    [
        (2e-4, "sqrt1024", 3072, 3.464e-4),
        (4e-3, "sqrt1024", 2048, 5.657e-3),
        (5e-4, "linear512", 1024, 1e-3),
        (1e-3, "none", 2048, 1e-3),
    ],
)
def test_peaks_follow_the_batch(lr, scaling, batch, peak):
    assert scaled_lr(OptimConfig(lr=lr, lr_scaling=scaling), batch) == pytest.approx(peak, rel=2e-4)


def with_gradients(groups):
    for group in groups:
        for name, parameter in zip(group.names, group.params, strict=True):
            parameter.grad = gradients()[0][name].clone()
    return groups


def norm(*tensors):
    return math.sqrt(sum(x * x for tensor in tensors for x in tensor.flatten().tolist()))


def test_all_gradients_are_clipped_by_one_norm():
    groups, before = with_gradients(make_groups()), gradients()[0]
    found = clip_gradients(groups, OptimConfig(clip=1.5))
    whole = norm(*before.values())
    assert found == {"gradient_norm": pytest.approx(whole)}
    for group in groups:
        torch.testing.assert_close(group.params[0].grad, before[group.names[0]] * 1.5 / whole, rtol=1e-6, atol=0)


def test_each_module_is_clipped_by_its_own_norm():
    groups, before = with_gradients(make_groups()), gradients()[0]
    backbone, head = norm(before[DECAYED], before[PLAIN]), norm(before[LAST])
    limit = (backbone + head) / 2
    assert backbone > limit > head
    found = clip_gradients(groups, OptimConfig(clip=limit, clip_each_module=True))
    assert found == {"gradient_norm/backbone": pytest.approx(backbone), "gradient_norm/head": pytest.approx(head)}
    scale = {DECAYED: limit / backbone, PLAIN: limit / backbone, LAST: 1.0}
    for group in groups:
        (name,) = group.names
        torch.testing.assert_close(group.params[0].grad, before[name] * scale[name], rtol=1e-6, atol=0)


def test_without_a_limit_norms_are_measured_and_gradients_left():
    groups, before = with_gradients(make_groups()), gradients()[0]
    assert clip_gradients(groups, OptimConfig()) == {"gradient_norm": pytest.approx(norm(*before.values()))}
    for group in groups:
        torch.testing.assert_close(group.params[0].grad, before[group.names[0]], rtol=0, atol=0)


def test_parameters_without_a_gradient_are_passed_over():
    groups = with_gradients(make_groups())
    groups[2].params[0].grad = None
    found = clip_gradients(groups, OptimConfig(clip=1.0, clip_each_module=True))
    assert found["gradient_norm/head"] == 0
    assert norm(groups[0].params[0].grad, groups[1].params[0].grad) == pytest.approx(1.0)


def small_recipe():
    torch.manual_seed(0)
    recipe = nn.ModuleDict({"body": nn.Linear(6, 5), "head": nn.Linear(5, 3), "whole": nn.Linear(3, 1, bias=False)})
    return recipe.double()


def step_small_recipe(recipe, config):
    """Two steps on a loss with large gradients. Returns what `clip_gradients` said, and the weights."""
    groups = [
        ParamGroup(
            tuple(f"{key}.{name}" for name, _ in part.named_parameters()),
            tuple(part.parameters()),
            module=key,
            decay_scale=0.0 if key == "head" else 1.0,
        )
        for key, part in recipe.items()
    ]
    optimizer = build_optimizer(groups, config)
    images = torch.arange(24, dtype=torch.float64).view(4, 6) / 10
    said = []
    for step in range(2):
        set_rates(optimizer, groups, config, at(step), 0, 1024)
        x = images
        for part in recipe.values():
            x = part(x)
        x.square().sum().backward()
        said.append({key: float(value) for key, value in clip_gradients(groups, config).items()})
        optimizer.step()
        optimizer.zero_grad()
    return said, [p.full_tensor() if isinstance(p, DTensor) else p for p in recipe.parameters()]


CONFIGS = [
    OptimConfig(name=name, lr=0.05, weight_decay=0.1, clip=clip, clip_each_module=each)
    for name in ("adamw", "lamb")
    for clip, each in ((None, False), (0.3, False), (0.3, True))
]


def compare_sharded_with_whole(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        for config in CONFIGS:
            expected_norms, expected = step_small_recipe(small_recipe(), config)
            recipe = small_recipe()
            # With AdamW one module stays whole, as a logit scale does: FSDP2 refuses scalars.
            for part in recipe.values() if config.name == "lamb" else (recipe["body"], recipe["head"]):
                fully_shard(part, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
            norms, weights = step_small_recipe(recipe, config)
            assert norms == [pytest.approx(norm, rel=1e-9) for norm in expected_norms]
            for ours, theirs in zip(weights, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_parameters_are_clipped_and_updated_as_whole_ones(tmp_path):
    torch.multiprocessing.spawn(compare_sharded_with_whole, (tmp_path / "store",), nprocs=2)
