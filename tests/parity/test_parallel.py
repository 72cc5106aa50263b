"""One process, two copies (DDP) and two sets of shards (FSDP2) train to the same weights and resume each other's runs."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from tests.apart import meeting, on_two
from torch import nn
from torch.distributed.tensor import DTensor

from vitreg.data.batches.batch import TrainBatch
from vitreg.machine.reduce import sum_over_processes
from vitreg.machine.runtime import Processes, processes
from vitreg.recipes.average import move_towards
from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.settings import OptimConfig
from vitreg.training import checkpoint
from vitreg.training.optim import build_optimizer, clip_gradients
from vitreg.training.parallel import wrap

CPU = torch.device("cpu")
BATCH, STEPS, HALF = 8, 5, 2


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.layer(self.norm(x)).tanh()


class Tower(nn.Module):
    """Seven wide, so that two processes get unequal shares, and a row that only the first one has."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 7))
        self.blocks = nn.ModuleList(Block(7) for _ in range(2))
        self.head = nn.Linear(7, 3)
        self.tied = self.head

    def forward(self, x):
        x = x + self.token
        for block in self.blocks:
            x = block(x)
        return self.tied(x)


class Toy(nn.Module):
    """A student, an averaged teacher, a single number that is learned, and what is counted over all processes."""

    group = 1

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Tower(), Tower()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("seen", torch.zeros(4), persistent=False)

    def forward(self, batch, progress):
        x = batch.views[0][0].flatten(1)  # [B, 7]
        with torch.no_grad():
            target = self.teacher(x)
        self.seen += torch.cat([target.sum(0), torch.tensor([float(len(x))])])
        loss = (self.scale.exp() * self.student(x) - target + self.centre - batch.targets).pow(2).mean()
        return StepOutput(loss, {"norm": target.norm()}, len(x))

    def after_step(self, progress):
        move_towards(self.teacher, self.student, 0.8)
        total = sum_over_processes(self.seen)
        self.centre.lerp_(total[:3] / total[3], 0.1)
        self.seen.zero_()

    def shards(self):
        return [*self.student.blocks, *self.teacher.blocks]

    def groups(self):
        single = {"scale": self.scale}
        many = {name: p for name, p in self.named_parameters() if p.requires_grad and name not in single}
        return [ParamGroup(tuple(group), tuple(group.values())) for group in (many, single)]


def batch_of(step, group):
    """This process's share of the global batch of a step."""
    draw = torch.Generator().manual_seed(100 + step)
    images, targets = torch.randn(1, BATCH, 7, 1, 1, generator=draw), torch.randn(BATCH, 3, generator=draw)
    size = BATCH // group.world
    mine = slice(group.rank * size, (group.rank + 1) * size)
    return TrainBatch((images[:, mine],), targets[mine], (), mine.start)


class Run:
    """The loop in short."""

    def __init__(self, mode, group, *, optimizer="adamw", resumed=None, seed=0):
        torch.manual_seed(seed)
        self.recipe, self.group = Toy(), group
        if optimizer == "lamb":  # which wants everything sharded or nothing
            self.recipe.scale.requires_grad_(False)
        self.wrapped = wrap(self.recipe, mode, CPU, torch.float32, self.recipe.shards())
        self.groups = [g for g in self.recipe.groups() if g.params[0].requires_grad]
        self.optimizer = build_optimizer(self.groups, OptimConfig(name=optimizer))
        self.step, self.losses = 0, []
        if resumed is not None:
            self.step = resumed.step
            self.wrapped.load(resumed.model)
            self.wrapped.load_optimizer(self.optimizer, self.groups, resumed.optimizer)

    def train(self, steps, micro=None):
        while self.step < steps:
            for options in self.optimizer.param_groups:
                options["lr"] = 0.02
            batch = batch_of(self.step, self.group)
            progress = Progress(step=self.step, total=STEPS, epoch_steps=STEPS)
            parts = batch.split(micro or len(batch))
            for part in parts[:-1]:
                with self.wrapped.no_sync():
                    self.backward(part, progress, len(batch))
            self.backward(parts[-1], progress, len(batch))
            clip_gradients(self.groups, OptimConfig(clip=0.5))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.recipe.after_step(progress)
            self.step += 1
        return self

    def backward(self, part, progress, size):
        output = self.wrapped(part, replace(progress, first=part.first))
        assert output.examples == len(part)
        assert output.metrics["norm"].ndim == 0
        (output.loss * (len(part) / size)).backward()

    def everything(self):
        """Weights, and moments by name, on the first process."""
        moments = self.wrapped.optimizer_state(self.optimizer, self.groups)
        return {k: v.clone() for k, v in (self.wrapped.state() | moments.tensors).items()}

    def save(self, folder):
        state, moments = self.wrapped.state(), self.wrapped.optimizer_state(self.optimizer, self.groups)
        if self.group.first:
            checkpoint.save(folder, state, moments, {"step": self.step}, 1)
        else:
            assert not state
            assert not moments.tensors
        if dist.is_initialized():
            dist.barrier()
        return self


def look(wrapped):
    """What an evaluation sees on this process."""
    wrapped.recipe.seen.fill_(2.0)
    plain = wrapped.plain()
    with torch.no_grad():
        answer = plain.teacher(torch.linspace(-1, 1, 14).view(2, 7))
    result = answer, plain.seen.clone(), plain.training
    wrapped.recipe.seen.zero_()
    return result


def on_two_processes(rank, folder, env):
    """All that the tests below look at, by one pair of processes."""
    torch.set_num_threads(1)
    env = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with pytest.MonkeyPatch.context() as patched:
        for key, value in env.items():
            patched.setenv(key, value)
        with processes(training=True) as group:
            found = {}
            for mode in ("ddp", "fsdp"):
                # Another seed on each process: all start from the weights of the first.
                run = Run(mode, group, seed=rank)
                run.train(HALF).save(folder / mode)
                run.train(STEPS)
                found[mode] = run.everything()
                found[f"{mode} looked at"] = look(run.wrapped)
                found[f"{mode} after looking"] = run.everything()
                found[f"{mode} in parts"] = Run(mode, group, seed=rank).train(STEPS, micro=1).everything()
                found[f"{mode} lamb"] = Run(mode, group, optimizer="lamb", seed=rank).train(STEPS).everything()
                run = Run(mode, group, seed=7, resumed=checkpoint.load_newest(folder / mode, group))
                found[f"{mode} resumed by itself"] = run.train(STEPS).everything()
                run = Run(mode, group, seed=7, resumed=checkpoint.load_newest(folder / "one", group))
                found[f"{mode} resumed from one"] = run.train(STEPS).everything()
                halves = [p for p in run.recipe.parameters() if isinstance(p, DTensor)]
                found[f"{mode} sharded"] = len(halves), sum(p.to_local().numel() for p in halves)
            torch.save(found, folder / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def one(folder):
    """The uninterrupted run of one process, which also leaves a checkpoint half-way."""
    run = Run("none", Processes())
    run.train(HALF).save(folder / "one")
    return run.train(STEPS)


@pytest.fixture(scope="module")
def both(folder, one):
    """What each of two processes found."""
    with meeting() as env:
        on_two(on_two_processes, folder, env)
    return [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)]


def assert_equal(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
class TestTwoProcesses:
    def test_train_to_the_weights_and_moments_of_one(self, both, one, mode):
        assert_equal(both[0][mode], one.everything())
        assert not both[1][mode]  # the first has it all

    def test_micro_batches_change_nothing(self, both, one, mode):
        assert_equal(both[0][f"{mode} in parts"], one.everything())

    def test_lamb_too(self, both, mode):
        assert_equal(both[0][f"{mode} lamb"], Run("none", Processes(), optimizer="lamb").train(STEPS).everything())

    def test_resume_their_own_run_bit_for_bit(self, both, mode):
        assert_equal(both[0][f"{mode} resumed by itself"], both[0][mode], tolerance=0)

    def test_resume_the_run_of_one(self, both, one, mode):
        assert_equal(both[0][f"{mode} resumed from one"], one.everything())

    def test_are_resumed_by_one(self, both, one, folder, mode):
        run = Run("none", Processes(), resumed=checkpoint.load_newest(folder / mode), seed=7)
        assert run.step == HALF
        assert_equal(run.train(STEPS).everything(), one.everything())

    def test_are_looked_at_whole_on_each_process_and_unharmed(self, both, one, mode):
        answer, seen, training = look(one.wrapped)
        for found in both:
            torch.testing.assert_close(found[f"{mode} looked at"][0], answer, rtol=1e-5, atol=1e-5)
            assert torch.equal(found[f"{mode} looked at"][1], seen)
            assert found[f"{mode} looked at"][2] == training
        assert_equal(both[0][f"{mode} after looking"], both[0][mode], tolerance=0)

    def test_tied_weights_are_saved_once(self, both, folder, mode):
        model = checkpoint.load_newest(folder / mode).model
        assert model["student.tied.weight"] is model["student.head.weight"]


def test_shards_hold_each_number_once(both, one):
    parameters = [p for p in one.recipe.parameters() if p.ndim]
    (count, mine), (_, theirs) = (found["fsdp sharded"] for found in both)
    assert count == len(parameters)
    assert mine == sum((len(p) + 1) // 2 * p[0].numel() for p in parameters)  # the first has the larger half of rows
    assert mine + theirs == sum(p.numel() for p in parameters)
    assert both[0]["ddp sharded"] == (0, 0)


def test_one_process_is_not_wrapped_whatever_the_mode():
    recipe = Toy()
    for mode in ("none", "ddp", "fsdp"):
        assert wrap(recipe, mode, CPU, torch.float32, recipe.shards()).plain() is recipe
    with pytest.raises(ValueError, match="function"):
        wrap(on_two_processes, "none", CPU, torch.float32)


@pytest.mark.gpu
def test_moments_of_a_gpu_are_resumed_on_the_cpu_and_back(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    groups = [ParamGroup(("w",), (nn.Parameter(torch.ones(4, 3, device="cuda")),))]
    model = nn.ParameterDict({"w": groups[0].params[0]})
    wrapped = wrap(model, "none", torch.device("cuda"), torch.bfloat16)
    optimizer = build_optimizer(groups, OptimConfig())
    groups[0].params[0].grad = torch.full((4, 3), 0.5, device="cuda")
    optimizer.step()
    checkpoint.save(tmp_path, wrapped.state(), wrapped.optimizer_state(optimizer, groups), {"step": 1}, 1)
    moments = checkpoint.load_newest(tmp_path).optimizer
    wrapped.load_optimizer(optimizer, groups, moments)
    assert optimizer.state[groups[0].params[0]]["step"].device.type == "cuda"
    optimizer.step()
    cpu = [ParamGroup(("w",), (nn.Parameter(torch.ones(4, 3)),))]
    other = build_optimizer(cpu, OptimConfig())
    wrapped.load_optimizer(other, cpu, moments)
    assert torch.equal(other.state[cpu[0].params[0]]["exp_avg"], moments.tensors["w/exp_avg"])
    assert other.state[cpu[0].params[0]]["step"] == 1
