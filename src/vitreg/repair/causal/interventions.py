"""The interventions: what is done to the sinks, and in the same way to as many random patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vitreg.analysis.substitute import Kind
from vitreg.backbones import Edit
from vitreg.repair.causal.banks import Bank, drawn
from vitreg.repair.causal.edits import HideFrom, PutRegisters, PutTokens, PutValues, Queries, Redirect
from vitreg.repair.causal.sinks import Sinks

Need = Literal["attention", "cls", "registers"]


@dataclass(frozen=True)
class Acting:
    """One side of an intervention on one batch.

    Args:
        marked: the patches that are changed; for "registers" None stands for the registers themselves.
        target: the patch of each image that gets redirected attention.
        numbers: of the images, which seed their draws.
        head: (block, head) that attends to sinks most.
    """

    sinks: Sinks
    bank: Bank
    marked: Bool[Tensor, "B P"] | None
    target: Int64[Tensor, "B"]
    numbers: Int64[Tensor, "B"]
    head: tuple[int, int] | None
    seed: int

    @property
    def patches(self) -> Bool[Tensor, "B P"]:
        """The patches that are changed."""
        assert self.marked is not None
        return self.marked


@dataclass(frozen=True)
class Intervention:
    """One way to change tokens.

    Args:
        name: in records.
        title: in tables.
        words: what is done to {tokens}, as a sentence begins.
        edits: those of one side of a batch.
        needs: what the model must have.
    """

    name: str
    title: str
    words: str
    edits: Callable[[Acting], Sequence[Edit]]
    needs: tuple[Need, ...] = ()

    @property
    def on_registers(self) -> bool:
        """Whether registers are changed, in all images, and not sinks."""
        return "registers" in self.needs


def _tokens(kind: Kind, acting: Acting) -> list[Edit]:
    values = drawn(acting.bank.tokens, kind, acting.patches, acting.numbers, acting.seed)
    return [Edit("block", acting.sinks.onset, PutTokens(acting.patches, values[0]))]


def _values(kind: Kind, acting: Acting) -> list[Edit]:
    values = drawn(acting.bank.values, kind, acting.patches, acting.numbers, acting.seed)
    return [
        Edit("attention", block, PutValues(acting.patches, own))
        for block, own in zip(acting.sinks.later, values, strict=True)
    ]


def _hidden(queries: Queries, acting: Acting) -> list[Edit]:
    return [Edit("attention", block, HideFrom(acting.patches, queries)) for block in acting.sinks.later]


def _hidden_from_head(acting: Acting) -> list[Edit]:
    assert acting.head is not None
    block, head = acting.head
    return [Edit("attention", block, HideFrom(acting.patches, "all", head))]


def _redirected(acting: Acting) -> list[Edit]:
    return [Edit("weights", block, Redirect(acting.patches, acting.target)) for block in acting.sinks.later]


def _spread(acting: Acting) -> list[Edit]:
    return [Edit("weights", block, Redirect(acting.patches)) for block in acting.sinks.later]


def _exchanged(acting: Acting) -> list[Edit]:
    bank, count = acting.bank.everywhere, len(acting.numbers)
    if acting.marked is not None:
        values = drawn(bank, "shuffle", acting.marked, acting.numbers, acting.seed)
        return [Edit("block", block, PutTokens(acting.marked, own)) for block, own in enumerate(values)]
    slots = torch.arange(bank.slots).repeat(count)
    values = bank.values("shuffle", slots, acting.numbers.repeat_interleave(bank.slots), seed=acting.seed)
    return [Edit("block", block, PutRegisters(own.unflatten(0, (count, -1)))) for block, own in enumerate(values)]


_READ = "what attention reads from {tokens}"
_ATTENDING: tuple[Need, ...] = ("attention",)
_KINDS: tuple[tuple[str, Kind], ...] = (("zero", "zero"), ("mean", "mean"), ("donor", "shuffle"), ("random", "noise"))
_WORDS = {
    "zero": "Setting {what} to zero", "mean": "Setting {what} to the mean over images",
    "donor": "Replacing {what} by another image's", "random": "Replacing {what} by noise of the same mean and spread",
}  # fmt: skip
_TITLES = {"zero": "zero", "mean": "mean", "donor": "another image's", "random": "random"}
INTERVENTIONS: tuple[Intervention, ...] = (
    *(
        Intervention(f"token_{name}", f"token: {_TITLES[name]}", _WORDS[name].format(what="{tokens}"), partial(_tokens, kind))
        for name, kind in _KINDS
    ),
    *(
        Intervention(f"value_{name}", f"value: {_TITLES[name]}", _WORDS[name].format(what=_READ), partial(_values, kind), _ATTENDING)
        for name, kind in _KINDS
    ),
    Intervention(
        "hidden_from_cls", "key hidden from CLS", "Hiding {tokens} from the class token", partial(_hidden, "cls"),
        ("attention", "cls"),
    ),
    Intervention(
        "hidden_from_patches", "key hidden from patches", "Hiding {tokens} from all patches",
        partial(_hidden, "patches"), _ATTENDING,
    ),
    Intervention(
        "hidden_from_head", "key hidden from one head", "Hiding {tokens} from the head that attends to sinks most",
        _hidden_from_head, _ATTENDING,
    ),
    Intervention(
        "redirected", "attention to another patch", "Redirecting the attention on {tokens} to another patch",
        _redirected, _ATTENDING,
    ),
    Intervention(
        "spread", "attention spread", "Spreading the attention on {tokens} over all other tokens", _spread, _ATTENDING
    ),
    Intervention(
        "registers_exchanged", "registers of another image", "Replacing {tokens} after every block by another image's",
        _exchanged, ("registers",),
    ),
)  # fmt: skip
