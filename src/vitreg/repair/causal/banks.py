"""What the changed tokens are replaced by: moments and samples of such tokens in images that no effect is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.analysis.substitute import Kind, TokenBank
from vitreg.backbones import Capture, Edit, Place, Trace
from vitreg.backbones.trace import QKV
from vitreg.errors import UserError
from vitreg.repair.causal.edits import tokens_of
from vitreg.repair.causal.sinks import Chosen, Sinks, choose
from vitreg.repair.columns.reading import queries_of
from vitreg.repair.subject import Subject

SIDES = ("sinks", "random")
DONORS = 64  # images that a bank holds tokens of


@dataclass
class Bank:
    """Tokens of one side: sinks, or random patches.

    Attributes:
        tokens: at the output of the onset.
        values: what attention reads from them in each later block, heads side by side.
        everywhere: at the output of every block, in place of registers: registers, a slot each, or random patches.
    """

    tokens: TokenBank = field(default_factory=TokenBank)
    values: TokenBank = field(default_factory=TokenBank)
    everywhere: TokenBank = field(default_factory=TokenBank)


def drawn(
    bank: TokenBank, kind: Kind, marked: Bool[Tensor, "B P"], numbers: Int64[Tensor, "B"], seed: int
) -> Float[Tensor, "L T D"]:
    """Return what the marked patches are replaced by, from a bank of one slot; T is 0 where none is marked."""
    owners = numbers[marked.nonzero()[:, 0]]
    if not len(owners):
        return torch.zeros(len(bank.mean_), 0, bank.mean_.shape[2])
    return bank.values(kind, torch.zeros_like(owners), owners, seed=seed)


@dataclass(frozen=True)
class Donors:
    """Banks of both sides, and the head that attends to sinks most.

    Args:
        head: (block, head); None where attention cannot be read.
        images: how many they were taken from.
    """

    banks: Mapping[str, Bank]
    head: tuple[int, int] | None
    images: int


@dataclass(frozen=True)
class Gather:
    """Keeps what passes of the marked patches, or of all registers; changes nothing."""

    marked: Bool[Tensor, "B P"] | None
    kept: dict[int, Tensor]

    def __call__(self, value: Tensor | QKV, place: Place) -> Tensor | QKV:
        """Keep it, by block."""
        assert place.layer is not None
        if self.marked is None:
            assert isinstance(value, Tensor)
            found = value[:, list(place.layout.registers)].flatten(0, 1)
        elif isinstance(value, QKV):
            image, token = tokens_of(self.marked, place.layout, value.v.device)
            found = value.v[image, :, token].flatten(1)
        else:
            found = value[tokens_of(self.marked, place.layout, value.device)]
        self.kept[place.layer] = found.detach().float().cpu()
        return value


def registers_of(subject: Subject) -> int:
    """Return how many registers can be exchanged: 0 where blocks differ in their tokens."""
    layouts = subject.backbone.layouts(subject.size)
    same = all(layout.registers == layouts[0].registers for layout in layouts)
    return len(layouts[0].registers) if same else 0


def find_donors(subject: Subject, sinks: Sinks, batch: int) -> Donors:
    """Look at the images to fit on, until enough of them have sinks.

    Raises:
        UserError: if none has.
    """
    backbone, registers, seen, start = subject.backbone, registers_of(subject), 0, 0
    banks = {"sinks": Bank(everywhere=TokenBank(max(registers, 1))), "random": Bank()}
    readable = backbone.attention_status().source != "none"
    layouts = backbone.layouts(subject.size)
    readers = {block: list(layouts[block].cls) or queries_of(layouts[block]) for block in sinks.later if readable}
    shares = torch.zeros(len(sinks.later), backbone.anatomy.heads or 1, dtype=torch.float64)
    for pixels in subject.images.batches("fit", batch):
        numbers = torch.arange(start, start + len(pixels))
        start += len(pixels)
        chosen = choose(
            sinks.of(backbone.trace(pixels, sinks.capture)), sinks.there, registers, numbers, subject.seed
        ).with_sinks(DONORS - seen)
        if not len(chosen.numbers):
            continue
        seen += len(chosen.numbers)
        gathered = _Gathered(chosen, registers)
        trace = backbone.trace(
            pixels[chosen.numbers - numbers[0]], Capture(rows=readers), gathered.edits(sinks, backbone.depth, readable)
        )
        gathered.into(banks)
        if readable:
            shares += torch.stack(
                [_attention_into(trace, block, readers[block], chosen.sinks) for block in sinks.later]
            )
        if seen >= DONORS:
            break
    if not seen:
        raise UserError(f"none of the {start} images to learn from has a sink; give more images.")
    best = divmod(int(shares.argmax()), shares.shape[1])
    return Donors(banks, (sinks.later[best[0]], best[1]) if readable else None, seen)


class _Gathered:
    """What passes of the chosen patches in one forward."""

    def __init__(self, chosen: Chosen, registers: int) -> None:
        self._chosen, self._registers = chosen, registers
        self._marked = {"sinks": chosen.sinks, "random": chosen.random}
        self._tokens, self._values, self._everywhere = ({side: dict[int, Tensor]() for side in SIDES} for _ in range(3))

    def edits(self, sinks: Sinks, depth: int, readable: bool) -> list[Edit]:
        """Return edits that change nothing and keep what passes."""
        found: list[Edit] = []
        for side, marked in self._marked.items():
            found.append(Edit("block", sinks.onset, Gather(marked, self._tokens[side])))
            if readable:
                found += [Edit("attention", block, Gather(marked, self._values[side])) for block in sinks.later]
        if self._registers:
            for side, marked in {"sinks": None, "random": self._chosen.instead}.items():
                found += [Edit("block", block, Gather(marked, self._everywhere[side])) for block in range(depth)]
        return found

    def into(self, banks: Mapping[str, Bank]) -> None:
        """Add it to the banks."""
        numbers = self._chosen.numbers
        for side, marked in self._marked.items():
            owners = numbers[marked.nonzero()[:, 0]]
            for bank, kept in ((banks[side].tokens, self._tokens[side]), (banks[side].values, self._values[side])):
                _add(bank, kept, torch.zeros_like(owners), owners)
        slots, owners = torch.arange(self._registers).repeat(len(numbers)), numbers.repeat_interleave(self._registers)
        _add(banks["sinks"].everywhere, self._everywhere["sinks"], slots, owners)
        owners = numbers[self._chosen.instead.nonzero()[:, 0]]
        _add(banks["random"].everywhere, self._everywhere["random"], torch.zeros_like(owners), owners)


def _add(bank: TokenBank, kept: Mapping[int, Tensor], slots: Tensor, owners: Tensor) -> None:
    if kept:
        bank.partial_fit(torch.stack([kept[block] for block in sorted(kept)]), slots, owners)


def _attention_into(
    trace: Trace, block: int, queries: Sequence[int], marked: Bool[Tensor, "B P"]
) -> Float[Tensor, "heads"]:
    """Return the attention of some queries into marked patches, sum over images, mean over queries."""
    rows = trace.layout_before(block).take(trace.attention(block, queries), -1, fill=0.0).cpu()
    return (rows * marked[:, None, None]).sum((0, 3)).mean(1).double()
