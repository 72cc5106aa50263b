"""Attention bias (Jiang et al. 2025; Sun et al. 2024): what a test-time register gives attention, without a token.

Every attention has an extra key and value per head, those of the test-time register, mean over images; the neurons that
write the outliers are 0 on all tokens, the class token included.

A model that takes no added token has no test-time register. Its extra key and value are then those of its own outliers,
mean over them, in the blocks after these appear; the choice is vitreg's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.backbones import QKV, Backbone, Capture
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.trace import token_norms
from vitreg.errors import UserError
from vitreg.repair.method import Fitted, Method
from vitreg.repair.methods import test_time
from vitreg.repair.neurons.scores import Neuron, beside, named
from vitreg.repair.neurons.search import choose_neurons
from vitreg.repair.outliers import Outliers
from vitreg.repair.settings import AttentionBiasSettings
from vitreg.repair.subject import Subject

Keys = dict[int, tuple[Tensor, Tensor]]  # block -> key, value [kv_heads, E, d]


@dataclass(frozen=True)
class AddKeys:
    """Keys and values of no token, the same for every image.

    Args:
        k, v: [kv_heads, E, d].
    """

    k: Float[Tensor, "heads E d"]
    v: Float[Tensor, "heads E d"]

    def __call__(self, qkv: QKV, place: Place) -> QKV:
        """Put them behind those of the tokens."""
        images = qkv.k.shape[0]
        k, v = (
            beside(own, like).to(like.dtype).expand(images, -1, -1, -1)
            for own, like in ((self.k, qkv.k), (self.v, qkv.v))
        )
        return qkv.with_keys(k, v)


@dataclass(frozen=True)
class SilenceNeurons:
    """Hidden units [K] of a block's MLP are 0 on all tokens."""

    neurons: Int64[Tensor, "K"]

    def __call__(self, hidden: Float[Tensor, "B N H"], place: Place) -> Float[Tensor, "B N H"]:
        """Set them to 0."""
        return hidden.index_fill(2, beside(self.neurons, hidden), 0)


class MeanKeys:
    """Sums of keys and values of some tokens, by block, taken while a model runs."""

    def __init__(self) -> None:
        self._sums: dict[int, list[Tensor]] = {}
        self._count: dict[int, int] = {}

    def add(self, block: int, k: Float[Tensor, "n heads E d"], v: Float[Tensor, "n heads E d"]) -> None:
        """Add n of them."""
        sums = [x.sum(0, dtype=torch.float64) for x in (k, v)]
        before = self._sums.get(block)
        self._sums[block] = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
        self._count[block] = self._count.get(block, 0) + len(k)

    def means(self) -> Keys:
        """Return the mean key and value of every block, float32."""
        return {
            block: ((k / self._count[block]).float().cpu(), (v / self._count[block]).float().cpu())
            for block, (k, v) in self._sums.items()
            if self._count[block]
        }


def keys_of_registers(model: Backbone, subject: Subject, count: int) -> Keys:
    """Return the keys and values of the `count` tokens directly before the patches, in every block."""
    found = MeanKeys()

    def read(qkv: QKV, place: Place) -> QKV:
        assert place.layer is not None
        own = slice(place.layout.first_patch - count, place.layout.first_patch)
        found.add(place.layer, qkv.k[:, :, own], qkv.v[:, :, own])
        return qkv

    for pixels in subject.batches():
        model.trace(pixels, Capture(), [Edit("attention", block, read) for block in range(model.depth)])
    return found.means()


def keys_of_outliers(model: Backbone, subject: Subject, outliers: Outliers) -> Keys:
    """Return the mean key and value of the outliers in the blocks after these appear."""
    found = MeanKeys()

    def mark(hidden: Tensor, place: Place) -> Tensor:
        norms = token_norms(place.layout.take(hidden))
        place.state["outliers"] = outliers.beyond(norms)
        return hidden

    def read(qkv: QKV, place: Place) -> QKV:
        assert place.layer is not None
        beyond = place.state["outliers"]
        k, v = (place.layout.take(x).transpose(1, 2)[beyond][:, :, None] for x in (qkv.k, qkv.v))  # [n, heads, 1, d]
        found.add(place.layer, k, v)
        return qkv

    later = [Edit("attention", block, read) for block in range(outliers.onset + 1, model.depth)]
    for pixels in subject.batches():
        model.trace(pixels, Capture(), [Edit("block", outliers.onset, mark), *later])
    return found.means()


def fit(subject: Subject, settings: AttentionBiasSettings) -> Fitted:
    """Find the neurons of the test-time registers, and the keys and values that these have.

    Raises:
        UserError: for a model whose attention cannot be written, or outliers that no neuron writes.
    """
    base = subject.backbone
    refuse_unwritable(base)
    if base.anatomy.resizable:
        found = test_time.fit(subject, settings)
        order = [(block, unit) for block, unit in found.details["order"]]
        keys = keys_of_registers(test_time.repaired(base, found), subject, settings.registers)
        return fitted(order, keys, found.notes, rounds=found.details["rounds"])
    keys = keys_of_outliers(base, subject, subject.outliers)
    if settings.registers > 1:
        raise UserError(
            f"{base.spec} takes no added tokens, so one mean key of its outliers is added; leave --registers out."
        )
    chosen = choose_neurons(
        subject, settings, lambda neurons: base.edited(edits(fitted(neurons, keys)), "attention-bias")
    )
    note = f"{base.spec} takes no added tokens: the keys and values are the mean ones of its outliers."
    return fitted(chosen.order, keys, [note, *chosen.notes], rounds=list(chosen.rounds))


def refuse_unwritable(backbone: Backbone) -> None:
    """Raise UserError for a model whose attention cannot be read, and so not be written."""
    status, parts = backbone.attention_status(), backbone.anatomy.attention
    by_hand = status.source == "projections" and any(each.finish is None for each in parts)
    if status.source == "none" or by_hand:
        why = "more than a projection stands behind its softmax" if by_hand else status.reason.rstrip(".")
        raise UserError(f"attention of {backbone.spec} cannot be written ({why}); test-time needs no attention.")


def fitted(order: Sequence[Neuron], keys: Keys, notes: Sequence[str] = (), **details: Any) -> Fitted:
    """Return the repair with these neurons silent and these keys added."""
    tensors = {f"{name}.{block}": x for block, pair in keys.items() for name, x in zip(("k", "v"), pair, strict=True)}
    return Fitted({name: x.contiguous() for name, x in tensors.items()}, {**named(order), **details}, notes)


def edits(found: Fitted) -> list[Edit]:
    """Add the keys, and silence the neurons."""
    blocks = sorted(int(name.removeprefix("k.")) for name in found.tensors if name.startswith("k."))
    made = [
        Edit("attention", block, AddKeys(found.tensors[f"k.{block}"], found.tensors[f"v.{block}"])) for block in blocks
    ]
    silent = found.details["neurons"].items()
    return made + [Edit("mlp", int(block), SilenceNeurons(torch.tensor(units))) for block, units in silent]


METHOD = Method(name="attention-bias", settings=AttentionBiasSettings, fit=fit, edits=edits)
