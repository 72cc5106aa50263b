"""A design: blocks of factors that are crossed, and the runs that follow from it. `vitreg lab born` is the smallest. No torch.

A cell is what is trained, without the seed. Cells of several blocks that are the same are one, and so are their runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vitreg.config import encode
from vitreg.data.sets.synthetic.parameters import RetrievalParameters
from vitreg.experiments.lab.factors import AFTER, OF, PRESET, config_of, going_on, parameters_in, seeded, usual
from vitreg.passes.jobs import Job
from vitreg.training.settings import TrainConfig

VERB = "lab born"  # what the hash of a job has said since there were no designs; a run of either is found again by the other
AS_IN_BASE = "the base's"
OF_THE_BLOCK = "block"
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Level:
    """A value of a factor: how it is named, and what it sets, by whole names."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Factor:
    """A factor and its levels, the base's first if it is among them."""

    name: str
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Block:
    """Factors that are crossed: every level of one with every level of the others, from each of the seeds.

    What all cells of a block differ in from the base is a factor of one level, `OF_THE_BLOCK`, named as the block.

    Args:
        after: each run goes on from the end of this cell's run of the same seed; None begins anew.
        steps: for how many steps it goes on.
    """

    name: str
    factors: tuple[Factor, ...]
    seeds: tuple[int, ...]
    after: Cell | None = None
    steps: int = 0


@dataclass(frozen=True)
class Cell:
    """What is trained, without the seed.

    Args:
        name: for people; without any factor "base".
        changes: what differs from the base, by whole names.
        after: the cell from whose ends its runs go on.
        steps: for how many steps they go on; 0 for runs that begin anew.
    """

    name: str
    changes: Mapping[str, Any]
    after: Cell | None = None
    steps: int = 0

    @property
    def key(self) -> Key:
        """What two cells have in common if they are the same."""
        own = sorted((name, repr(value)) for name, value in self.changes.items())
        return (*own, ("after", repr(self.after.key)), ("steps", repr(self.steps))) if self.after else tuple(own)


@dataclass(frozen=True)
class Run:
    """One run of the lab.

    Args:
        config: of a run that goes on from another, with the job of that one as what it starts from.
        source: the run that it goes on from.
    """

    cell: Cell
    seed: int
    registers: int
    config: TrainConfig
    source: Run | None = None

    @property
    def name(self) -> str:
        """Such as "4 registers, seed 0"."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def job(self) -> Job:
        """The job, named by the hash of everything that decides the run."""
        return Job(f"training with {self.name}", {"verb": VERB, "config": encode(self.config)})


@dataclass(frozen=True)
class Design:
    """What a design asks for.

    Args:
        base: settings that differ from the preset, by whole names.
        steps: the most a run takes.
        more: steps that a run goes on after its task is solved.
        where: the file, for messages.
        hours: of a core; no run begins once the runs took so long.
    """

    name: str
    title: str
    base: Mapping[str, Any]
    blocks: tuple[Block, ...]
    steps: int
    where: str = "the design"
    hours: float | None = None
    more: int = AFTER

    def cell(self, block: Block, levels: Sequence[Level]) -> Cell:
        """Return the cell of one level of each factor of a block; what the base has anyway is no change.

        A run that goes on has what the run before it had, but for these levels.
        """
        pairs = list(zip(block.factors, levels, strict=True))
        changed: dict[str, Any] = dict(block.after.changes) if block.after else {}
        names: list[str] = []
        for factor, level in pairs:
            if factor.name == OF_THE_BLOCK:
                changed |= level.settings
                names.append(level.name)
        of, ground = changed.get(OF, self.base.get(OF, PRESET)), {**self.base, **changed}
        for factor, level in pairs:
            if factor.name != OF_THE_BLOCK:
                own = {key: value for key, value in level.settings.items() if value != usual(key, ground, of)}
                changed |= own
                names += [words(factor.name, level.name)] if own or is_registers(factor.name) else []
        changed = {key: value for key, value in changed.items() if value != usual(key, self.base, of)}
        name = ", ".join(names) or "base"
        if block.after is None:
            return Cell(name, changed)
        return Cell(f"{name}, going on from {block.after.name}", changed, block.after, block.steps)

    def crossed(self, block: Block) -> list[Cell]:
        """Return the cell of every combination of levels of a block."""
        return [self.cell(block, levels) for levels in itertools.product(*(factor.levels for factor in block.factors))]

    @cached_property
    def cells(self) -> dict[Key, tuple[Cell, tuple[int, ...]]]:
        """Return the cells by their keys, each with the seeds that any block asks for."""
        found: dict[Key, tuple[Cell, tuple[int, ...]]] = {}
        for run in self.runs:
            cell, seeds = found.get(run.cell.key, (run.cell, ()))
            found[run.cell.key] = (cell, (*seeds, run.seed))
        return found

    @cached_property
    def runs(self) -> list[Run]:
        """Return the runs, block by block, each seed by seed, so that runs that are compared are done side by side."""
        found: dict[tuple[Key, int], Run] = {}
        configs: dict[Key, TrainConfig] = {}
        for block in self.blocks:
            crossed = self.crossed(block)
            for seed in block.seeds:
                source = found[block.after.key, seed] if block.after else None
                for cell in crossed:
                    if (cell.key, seed) not in found:
                        config = configs.get(cell.key) or self.config(cell)
                        configs[cell.key] = config
                        own = seeded(config, seed) if source is None else going_on(config, seed, source.job.key)
                        found[cell.key, seed] = Run(cell, seed, config.model.registers, own, source)
        return list(found.values())

    def parameters(self, cell: Cell) -> RetrievalParameters:
        """Return what the images of a cell are made of."""
        return parameters_in({**self.base, **cell.changes})

    def config(self, cell: Cell) -> TrainConfig:
        """Return the run of seed 0 of a cell."""
        return config_of({**self.base, **cell.changes}, cell.steps or self.steps, self.where, self.more)


def is_registers(factor: str) -> bool:
    """Whether a factor is the number of registers, which every run is named by where it varies."""
    return factor.rpartition(".")[2] == "registers"


def words(factor: str, level: str) -> str:
    """Return a level of a factor in words: "4 registers", "attention off-by-one"."""
    if is_registers(factor):
        return f"{level} register{'s' * (level != '1')}"
    return level if factor == OF_THE_BLOCK else f"{factor} {level}"
