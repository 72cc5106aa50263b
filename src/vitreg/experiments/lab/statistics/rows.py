"""What a design compares: its rows, as pairs of cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vitreg.experiments.lab.design import Block, Design, Factor, Key, Level, is_registers, words

Pair = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """What is compared: cells of a level with cells of the base's level, in pairs; several pairs are averaged.

    An interaction is a difference of differences: of two pairs, one with a level of another factor and one, turned round, with
    its first; several such twos are averaged.
    """

    block: str
    factor: str
    level: str
    against: str
    where: str
    pairs: tuple[Pair, ...]
    interaction: bool = False
    after: int | None = None

    @property
    def weight(self) -> float:
        """How much the difference of a pair counts."""
        return (2 if self.interaction else 1) / len(self.pairs)


@dataclass(frozen=True)
class _Cells:
    """The cells of a block, by the levels of its factors."""

    design: Design
    block: Block
    numbers: Mapping[Key, int]

    def at(self, chosen: Mapping[str, Level]) -> int:
        """Return the index of the cell with these levels, by the names of all factors."""
        levels = [chosen[factor.name] for factor in self.block.factors]
        return self.numbers[self.design.cell(self.block, levels).key]

    def others(self, *names: str) -> tuple[list[Factor], list[dict[str, Level]]]:
        """Return all factors but these, and every combination of their levels."""
        left = [each for each in self.block.factors if each.name not in names]
        crossed = itertools.product(*(each.levels for each in left))
        return left, [{each.name: level for each, level in zip(left, levels, strict=True)} for levels in crossed]

    @property
    def after(self) -> int | None:
        """The cell from whose ends these go on."""
        return None if self.block.after is None else self.numbers[self.block.after.key]


def rows_of(design: Design, numbers: Mapping[Key, int]) -> Iterator[Row]:
    """Yield what a design compares, each set of pairs once: effects block by block, then interactions.

    Args:
        numbers: the index of each cell, by its key.
    """
    seen: set[frozenset[Pair]] = set()
    blocks = [_Cells(design, block, numbers) for block in design.blocks]
    for kind in (_effects, _interactions):
        for cells in blocks:
            for row in kind(cells):
                if frozenset(row.pairs) not in seen:
                    seen.add(frozenset(row.pairs))
                    yield row


def _effects(cells: _Cells) -> Iterator[Row]:
    """Yield each level of a factor against its first, at each combination of the others, and on average over these."""
    for factor in cells.block.factors:
        others, contexts = cells.others(factor.name)
        for level in factor.levels[1:]:
            pairs = [_pair(cells, factor, level, context) for context in contexts]
            named = [", ".join(words(name, each.name) for name, each in context.items()) for context in contexts]
            if len(contexts) > 1:
                named.append(f"on average over {' and '.join(each.name for each in others if len(each.levels) > 1)}")
            for where, own in zip(named, [*((pair,) for pair in pairs), tuple(pairs)], strict=False):
                if all(one != other for one, other in own):
                    yield Row(
                        cells.block.name, factor.name, level.name, factor.levels[0].name, where, own, after=cells.after
                    )


def _interactions(cells: _Cells) -> Iterator[Row]:
    """Yield, of each two factors, by how much the effect of a level of one differs between a level of the other and its first.

    Registers are the other, where they are one of the two.
    """
    for two in itertools.combinations(cells.block.factors, 2):
        one, other = sorted(two, key=lambda each: is_registers(each.name))
        contexts = cells.others(one.name, other.name)[1]
        for level, with_level in itertools.product(one.levels[1:], other.levels[1:]):
            pairs: list[Pair] = []
            for context in contexts:
                pairs.append(_pair(cells, one, level, {**context, other.name: with_level}))
                high, low = _pair(cells, one, level, {**context, other.name: other.levels[0]})
                pairs.append((low, high))
            where = f"with {words(other.name, with_level.name)} against {other.levels[0].name}"
            if len({cell for pair in pairs for cell in pair}) == 2 * len(pairs):
                yield Row(
                    cells.block.name, one.name, level.name, one.levels[0].name, where, tuple(pairs), interaction=True,
                    after=cells.after,
                )  # fmt: skip


def _pair(cells: _Cells, factor: Factor, level: Level, context: Mapping[str, Level]) -> Pair:
    """Return the cells of a level of a factor, and of its first."""
    return cells.at({**context, factor.name: level}), cells.at({**context, factor.name: factor.levels[0]})
