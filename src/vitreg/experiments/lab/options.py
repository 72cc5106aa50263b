"""What `vitreg lab` does, and the options of each experiment. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from vitreg.errors import UserError, unknown

MOST_PROCESSES = 256
EXPERIMENTS = ("born", "run", "report")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabOptions:
    """Which runs `lab born` trains: one for each number of registers and each seed."""

    registers: tuple[int, ...] = (0, 4)
    """A run for each of these numbers of registers."""
    seeds: int = 1
    """Runs for each number of registers, from the seeds 0, 1 and so on."""
    steps: int = 10_000
    """The most a run takes; it ends 1000 steps after the error of what is asked fell below 0.01."""
    processes: int = 2
    """Runs beside each other, one core each."""

    def __post_init__(self) -> None:
        if not self.registers or not all(0 <= count <= 64 for count in self.registers):
            raise UserError(f"--registers takes numbers from 0 to 64, not '{' '.join(map(str, self.registers))}'.")
        for name, most in (("seeds", 1000), ("steps", 10_000), ("processes", MOST_PROCESSES)):
            _in_range(name, getattr(self, name), most)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How `lab run` trains the runs of a design."""

    processes: int = 2
    """Runs beside each other, one core each."""
    photos: str | None = None
    """Whose photographs the runs see, of a design that has some: scikit-image, or a folder; those it names if unset."""

    def __post_init__(self) -> None:
        _in_range("processes", self.processes, MOST_PROCESSES)


def _in_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UserError(f"--{name} is {value}; it goes from 1 to {most}.")


def refuse_unknown(experiment: str) -> None:
    """Raise UserError for an experiment that the lab does not have."""
    if experiment not in EXPERIMENTS:
        raise unknown("experiment", experiment, EXPERIMENTS, "vitreg lab")
