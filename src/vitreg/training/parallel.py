"""One recipe on one or many processes: alone, as copies whose gradients are averaged (DDP), or in shards (FSDP2).

The loop sees one small interface. State is saved and loaded as whole tensors under the recipe's own names, so a
checkpoint works for every mode and number of processes. (Usual FSDP checkpoints have one file per rank and fit only
that number of processes.)
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vitreg.errors import UserError
from vitreg.recipes.recipe import Progress, Recipe, StepOutput
from vitreg.training.checkpoint import OptimizerState

if TYPE_CHECKING:
    from vitreg.data.batches.batch import TrainBatch
    from vitreg.recipes.parameters import ParamGroup

Mode = Literal["none", "ddp", "fsdp"]
GROUPS = "groups"  # in the names of tensors that an optimiser keeps of a whole group: "groups/0/step"


def wrap(
    recipe: Recipe | nn.Module,
    mode: Mode,
    device: torch.device,
    precision: torch.dtype,
    shards: Sequence[nn.Module] = (),
) -> Wrapped:
    """Move a recipe to its device and spread it over the processes of the default group.

    Every process starts from the weights and buffers of the first. Build the optimiser after this: FSDP2 replaces the
    parameters. For a single process, or without a group, the mode has no effect.

    Args:
        recipe: built identically on every process.
        mode: "ddp" keeps a copy on every process; "fsdp" a share of every parameter.
        precision: of the matrix products, which the loop computes under autocast. In bfloat16 on CUDA the weights of
            `shards` also travel as bfloat16; gradients are summed in float32. The rest of the recipe stays in float32:
            it is small, and its positions and prototypes suffer from rounding.
        shards: modules that FSDP2 gathers one at a time, such as the blocks.
    Raises:
        ValueError: if the recipe is no `nn.Module`.
    """
    if not isinstance(recipe, nn.Module):
        raise ValueError(f"a recipe is an nn.Module; {type(recipe).__name__} is none")
    if mode == "none" or not dist.is_initialized() or dist.get_world_size() == 1:
        return Wrapped(recipe.to(device))
    return _Copies(recipe.to(device)) if mode == "ddp" else _Shards(recipe, device, precision, shards)


class Wrapped:
    """A recipe on one process, and the interface of those on many.

    All methods are called by all processes at the same time.
    """

    def __init__(self, recipe: nn.Module) -> None:
        self.recipe = recipe

    def __call__(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Return the loss of this process's samples. Backward leaves gradients averaged over the processes."""
        return self.recipe(batch, progress)

    def no_sync(self) -> AbstractContextManager[None]:
        """Accumulate gradients locally, for all micro-batches of a step except the last."""
        return contextlib.nullcontext()

    def plain(self) -> nn.Module:
        """Return the recipe with whole weights, for evaluation: itself, or a copy under FSDP2."""
        return self.recipe

    def state(self) -> dict[str, Tensor]:
        """Return the recipe's state dict, whole and on the CPU, on the first process; the others get none.

        On one CPU process these are the weights themselves; save them before the next step.
        """
        return _on_first(self.recipe.state_dict(keep_vars=True))  # the tensors themselves: tied ones are one

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set weights and buffers from whole tensors, the same on every process.

        Raises:
            UserError: if names, shapes or dtypes are not those of this recipe.
        """
        own = self.recipe.state_dict()
        strange = sorted(own.keys() ^ state.keys())
        strange += [n for n in own if n in state and (own[n].shape, own[n].dtype) != (state[n].shape, state[n].dtype)]
        if strange:
            raise UserError(
                f"the checkpoint is of another recipe or model: {len(strange)} tensors do not fit, "
                f"such as {', '.join(strange[:3])}."
            )
        for name, target in own.items():
            _fill(target, state[name])

    def optimizer_state(self, optimizer: torch.optim.Optimizer, groups: Sequence[ParamGroup]) -> OptimizerState:
        """Return the optimiser's state, whole and by name, on the first process; the others get nothing.

        Args:
            groups: that the optimiser was built from, in its order.
        """
        packed = optimizer.state_dict()
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, dict[str, Any]] = {}
        for name, number in _numbers(packed, groups):
            for key, value in packed["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{key}"] = value
                else:
                    scalars.setdefault(name, {})[key] = value
        described: list[dict[str, Any]] = []
        for group, options in zip(groups, packed["param_groups"], strict=True):
            counters = {key: value for key, value in options.items() if _counts(optimizer, key)}
            tensors |= {f"{GROUPS}/{len(described)}/{k}": v for k, v in counters.items() if isinstance(v, Tensor)}
            plain = {key: value for key, value in counters.items() if not isinstance(value, Tensor)}
            described.append({"names": list(group.names), "counters": plain})
        tensors = _on_first(tensors)
        return OptimizerState(tensors, scalars, described) if tensors or _is_first() else OptimizerState()

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, groups: Sequence[ParamGroup], saved: OptimizerState
    ) -> None:
        """Set the optimiser's moments from whole tensors, the same on every process; its settings stay its own.

        Raises:
            UserError: if its parameters differ from those of the saved one.
        """
        counters = {name: dict(group["counters"]) for group in saved.groups for name in group["names"]}
        strange = sorted(counters.keys() ^ {name for group in groups for name in group.names})
        if strange:
            raise UserError(
                f"the checkpoint's optimiser trained other parameters: {len(strange)} differ, "
                f"such as {', '.join(strange[:3])}."
            )
        packed = optimizer.state_dict()
        parameters = {name: p for group in groups for name, p in zip(group.names, group.params, strict=True)}
        numbers = dict(_numbers(packed, groups))
        state: dict[int, dict[str, Any]] = {numbers[name]: dict(values) for name, values in saved.scalars.items()}
        for path, value in saved.tensors.items():
            name, key = path.rsplit("/", 1)
            if name.startswith(f"{GROUPS}/"):
                for member in saved.groups[int(name.removeprefix(f"{GROUPS}/"))]["names"]:
                    counters[member][key] = value
            else:
                state.setdefault(numbers[name], {})[key] = _shared_out(value, parameters[name])
        options = [
            {**options, **counters[group.names[0]]}
            for group, options in zip(groups, packed["param_groups"], strict=True)
        ]
        optimizer.load_state_dict({"state": state, "param_groups": options})


class _Copies(Wrapped):
    """DDP. Buffers are not broadcast: recipes reduce their statistics over processes, so buffers stay equal."""

    def __init__(self, recipe: nn.Module) -> None:
        super().__init__(recipe)
        # PyTorch 2.13 gave the option another name.
        names = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {option: False}
        self._ddp = DistributedDataParallel(recipe, **options)

    def __call__(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        return self._ddp(batch, progress)

    def no_sync(self) -> AbstractContextManager[None]:
        return self._ddp.no_sync()


class _Shards(Wrapped):
    """FSDP2. Teachers are sharded like their students, so their averages need no communication."""

    def __init__(
        self, recipe: nn.Module, device: torch.device, precision: torch.dtype, shards: Sequence[nn.Module]
    ) -> None:
        super().__init__(recipe)
        self._device = device
        self._skeleton = copy.deepcopy(recipe).to("meta")
        recipe.to(device)
        with torch.no_grad():
            for tensor in itertools.chain(recipe.parameters(), recipe.buffers()):
                dist.broadcast(tensor, 0)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for module in shards:
            fully_shard(module, mesh=mesh, mp_policy=_policy(device, precision))
        # FSDP2 cannot shard a single number (CLIP's logit scale): it stays whole, its gradient averaged by hand.
        scalars = {parameter for parameter in recipe.parameters() if parameter.ndim == 0}
        self._root = _Unpacked(recipe)
        fully_shard(self._root, mesh=mesh, ignored_params=scalars)
        for parameter in scalars:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_average)

    def __call__(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        return StepOutput(*self._root(batch, progress))

    @contextlib.contextmanager
    def no_sync(self) -> Generator[None, None, None]:
        _fsdp(self._root).set_requires_gradient_sync(False)
        try:
            yield
        finally:
            _fsdp(self._root).set_requires_gradient_sync(True)

    def plain(self) -> nn.Module:
        """Return a copy of the recipe with whole weights on this device, on every process."""
        _fsdp(self._root).reshard()
        twin = copy.deepcopy(self._skeleton).to_empty(device=self._device).train(self.recipe.training)
        # By name, and not by state dict: that lacks the buffers that are never saved.
        own = dict(_tensors(self.recipe))
        with torch.no_grad():
            for name, target in _tensors(twin):
                target.copy_(_whole(own[name]))
        return twin

    def state(self) -> dict[str, Tensor]:
        _fsdp(self._root).reshard()  # a forward pass without a backward one leaves parameters whole
        return super().state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        _fsdp(self._root).reshard()
        super().load(state)


class _Unpacked(nn.Module):
    """Returns a `StepOutput` as a tuple: FSDP2 finds output tensors only in known containers."""

    def __init__(self, recipe: nn.Module) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, batch: TrainBatch, progress: Progress) -> tuple[Tensor, dict[str, Tensor], int]:
        output = self.recipe(batch, progress)
        return output.loss, output.metrics, output.examples


def _policy(device: torch.device, precision: torch.dtype) -> MixedPrecisionPolicy:
    """Return the precision for communicating weights and gradients. Autocast handles inputs."""
    if device.type == "cuda" and precision == torch.bfloat16:
        return MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    return MixedPrecisionPolicy(cast_forward_inputs=False)


def _fsdp(module: nn.Module) -> FSDPModule:
    """Return the module as what `fully_shard` made of it in place."""
    if not isinstance(module, FSDPModule):
        raise ValueError(f"{type(module).__name__} is not sharded")
    return module


def _average(parameter: Tensor) -> None:
    """Average a gradient over processes. Averaging it again after each micro-batch does no harm: equal values stay."""
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over parameters and buffers under all their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _whole(tensor: Tensor) -> Tensor:
    """Gather a tensor from its shards; a collective call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _on_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather tensors one by one to the CPU of the first process; tied ones stay tied."""
    done: dict[int, Tensor] = {}
    kept = {}
    for name, tensor in tensors.items():
        if id(tensor) not in done:
            whole = _whole(tensor.detach())
            done[id(tensor)] = whole.cpu() if _is_first() else whole.new_empty(0)
        kept[name] = done[id(tensor)]
    return kept if _is_first() else {}


def _share(value: Tensor, like: DTensor) -> Tensor:
    """Cut this process's share out of a whole tensor as FSDP2 does: in rows, as `chunk`, the last ones maybe empty."""
    rows = value.chunk(like.device_mesh.size())
    place = like.device_mesh.get_local_rank()
    return rows[place] if place < len(rows) else value[:0]


def _fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if isinstance(target, DTensor):
        target.to_local().copy_(_share(value, target))
    else:
        target.copy_(value)


def _shared_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a moment sharded like its parameter; state of another shape, such as Adam's step, stays whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.clone()
    moment = torch.zeros_like(parameter, dtype=value.dtype, requires_grad=False)
    _fill(moment, value)
    return moment


def _numbers(packed: dict[str, Any], groups: Sequence[ParamGroup]) -> Iterator[tuple[str, int]]:
    """Go through the names of an optimiser's parameters and their numbers in its state dict."""
    for group, options in zip(groups, packed["param_groups"], strict=True):
        yield from zip(group.names, options["params"], strict=True)


def _counts(optimizer: torch.optim.Optimizer, key: str) -> bool:
    """Say whether a group's entry is something the optimiser counts (LAMB's step), not a setting or its parameters."""
    return key not in {*optimizer.defaults, "params", "param_names"}
