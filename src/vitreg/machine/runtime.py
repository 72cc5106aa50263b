"""Where and how a run happens: device, processes under torchrun, and the provenance written beside every number."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from vitreg.errors import UserError
from vitreg.machine import measured
from vitreg.machine.precision import measured_products
from vitreg.quantities import count
from vitreg.records import PrecisionChoice, Provenance
from vitreg.writing.files import printable


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those started together by torchrun; rank 0 of 1 without it."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes results and prints."""
        return self.rank == 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum an array over all processes; every process gets the result."""
        return self._reduce(array, dist.ReduceOp.SUM)

    def max(self, array: np.ndarray) -> np.ndarray:
        """Elementwise maximum over all processes."""
        return self._reduce(array, dist.ReduceOp.MAX)

    def _reduce(self, array: np.ndarray, op: Any) -> np.ndarray:
        if self.world == 1:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array).copy())
        dist.all_reduce(tensor, op=op)
        return tensor.numpy()

    def gather(self, value: Any) -> list[Any]:
        """Gather every process's value, in rank order, on every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def processes(*, training: bool = False) -> Generator[Processes, None, None]:
    """Join the group that torchrun describes in the environment, for the length of the block.

    Statistics travel over gloo: they are small, live on the CPU, and must add up exactly on any hardware.

    Args:
        training: gradients and weights on CUDA travel too, over NCCL; this process takes the GPU of its local rank.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes()
        return
    backend = "gloo"
    if training and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        # NCCL refuses two processes on one GPU; gloo takes them, slowly.
        if int(os.environ.get("LOCAL_WORLD_SIZE", world)) <= torch.cuda.device_count():
            backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    dist.barrier()  # a process that exits early would break those still joining
    _agree_on_speed()
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def _agree_on_speed() -> None:
    """Give every process the timings of the first one: machines may differ, but a run has one precision."""
    if dist.get_rank() == 0:
        measured_products()
    found = [measured.known()]
    dist.broadcast_object_list(found)
    measured.adopt(found[0])


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks up to 32 MiB for the next layer.

    Otherwise every layer requests its pages from the system again: on a virtual machine a third of a ViT-S forward
    pass, a tenth of a ViT-T training step.

    glibc raises its mmap threshold to the size of a freed block (mallopt(3), M_MMAP_THRESHOLD), so freeing one block of
    the largest size it considers is enough. Elsewhere this does nothing.
    """
    np.empty(2**25 - 2**16, np.uint8)


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or the best one: CUDA (one per local rank), Apple's GPU, else the CPU.

    Raises:
        UserError: for a device this machine does not have.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no device '{name}' on this machine; {_devices()}.") from error
    return device


def _devices() -> str:
    """List the available devices, for error messages."""
    count = torch.cuda.device_count()
    cuda = ["cuda:0"] if count == 1 else [f"cuda:0 to cuda:{count - 1}"] if count else []
    found = [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    return f"it has {' and '.join(found)}"


PACKAGES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of this package and of the installed packages that results depend on."""
    from vitreg import __version__

    found = {"vitreg": __version__}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def provenance(
    *,
    started: datetime,
    device: torch.device,
    precision: str,
    processes: int,
    seed: int = 0,
    choice: PrecisionChoice | None = None,
) -> Provenance:
    """Everything needed to repeat this run."""
    packages = versions()
    return Provenance(
        vitreg=packages.pop("vitreg"),
        command=printable(shlex.join(["vitreg", *sys.argv[1:]]))
        if Path(sys.argv[0]).stem in {"vitreg", "__main__"}
        else "Python",
        started=started.isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 2),
        python=platform.python_version(),
        packages=packages,
        hardware=_hardware(device),
        device=str(device),
        precision=precision,
        precision_choice=choice,
        processes=processes,
        git=_git_commit(),
        seed=seed,
    )


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {count(torch.get_num_threads(), 'thread')}"


def _git_commit() -> str | None:
    """The commit of this checkout of vitreg, when it runs from one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
