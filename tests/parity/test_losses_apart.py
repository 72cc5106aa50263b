"""Losses and targets of two processes are those of one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.apart import on_two
from tests.parity.loss_loops import loop_clip, loop_sinkhorn, randn, unit

from vitreg.machine.reduce import gather_over_processes, max_over_processes, sum_over_processes
from vitreg.recipes import losses
from vitreg.recipes.self_distill import targets

PATCHES = (5, 2)  # masked patches of each process: not as many


def share(rank, folder):
    """One of two processes. Gradients are averaged as DDP does."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own, found = slice(4 * rank, 4 * rank + 4), {}
    weights, pixels, words, log_scale = clip_setting()
    features = unit(pixels[own] @ weights[0]), unit(words[own] @ weights[1])
    loss, top1 = losses.clip_loss(*features, log_scale.exp())
    found["clip"] = [loss.detach(), top1, *torch.autograd.grad(loss, [*weights, log_scale])]
    for value in found["clip"]:
        dist.all_reduce(value)
        value /= 2
    logits = randn(sum(PATCHES), 6, seed=9).split(PATCHES)[rank]
    found["sinkhorn"] = targets.sinkhorn(logits, 0.2)
    found["sinkhorn_alone"] = targets.sinkhorn(logits if rank == 0 else logits[:0], 0.2)
    count = torch.tensor(float(len(logits)))
    found["centre"] = targets.update_centre(torch.ones(6).double(), logits.sum(0), count)
    found["official_centre"] = targets.update_centre(torch.ones(6).double(), logits.mean(0), torch.tensor(1.0))
    x = torch.tensor([rank + 1.0, 5.0 - rank])
    found["reduced"] = [sum_over_processes(x), max_over_processes(x), x]
    gathered = gather_over_processes(x.requires_grad_())
    (rank * gathered + gathered**2).sum().backward()
    found["gathered"] = [gathered.detach(), x.grad]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def clip_setting():
    weights = [randn(5, 3, seed=seed).requires_grad_() for seed in (3, 4)]
    return weights, randn(8, 5, seed=5), randn(8, 5, seed=6), torch.tensor([1.7]).double().requires_grad_()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("processes")
    on_two(share, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_clip_on_two_processes_is_clip_on_one(two):
    weights, pixels, words, log_scale = clip_setting()
    features = unit(pixels @ weights[0]), unit(words @ weights[1])
    loss = loop_clip(*features, log_scale.exp()).sum()
    nearest = (features[0] @ features[1].T).argmax(1) == torch.arange(8)
    wanted = [loss.detach(), nearest.float().mean(), *torch.autograd.grad(loss, [*weights, log_scale])]
    for process in two:
        for mine, reference in zip(process["clip"], wanted, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_targets_on_two_processes_are_those_on_one(two):
    logits = randn(sum(PATCHES), 6, seed=9)
    torch.testing.assert_close(torch.cat([p["sinkhorn"] for p in two]), loop_sinkhorn(logits, 0.2))
    alone = loop_sinkhorn(logits[: PATCHES[0]], 0.2)
    torch.testing.assert_close(torch.cat([p["sinkhorn_alone"] for p in two]), alone)
    for process in two:
        torch.testing.assert_close(process["centre"], 0.9 + 0.1 * logits.mean(0))
        means = torch.stack([part.mean(0) for part in logits.split(PATCHES)])
        torch.testing.assert_close(process["official_centre"], 0.9 + 0.1 * means.mean(0))


def test_reductions(two):
    for rank, process in enumerate(two):
        values = [v.tolist() for v in process["reduced"]]
        assert values == [[3.0, 9.0], [2.0, 5.0], [rank + 1.0, 5.0 - rank]], "the last is left as it was"
        gathered, gradient = process["gathered"]
        assert gathered.tolist() == [1.0, 5.0, 2.0, 4.0]
        own = torch.tensor([rank + 1.0, 5.0 - rank])
        assert gradient.tolist() == (1 + 4 * own).tolist()  # of both losses: 0 + 2x, and 1 + 2x


def test_one_process_needs_no_group():
    x = randn(3, 2)
    for reduce in (sum_over_processes, max_over_processes, gather_over_processes):
        assert torch.equal(reduce(x), x)
