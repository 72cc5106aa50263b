"""Prefix: the keys and values of a few outliers of other images stand in every image, and its own outliers are deleted.

The idea is RegCache's (arXiv 2510.04547): an outlier is much the same in all images, so a cached one can serve as the
sink that attention looks for. How the cached ones are chosen is vitreg's own: candidates are the most extreme tokens of
as many images, and they are added one by one, each time the one that tames the most extreme norm most. Each half alone
can be worse than nothing, so both are judged with every repair (`controls` in its record).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.backbones import Backbone, Capture, Trace
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.trace import QKV
from vitreg.errors import UserError
from vitreg.repair.effect import Effects
from vitreg.repair.method import Fitted, Method
from vitreg.repair.methods.mask_keys import refuse_last_block
from vitreg.repair.outliers import patch_norms
from vitreg.repair.per_image.detect import Detector, as_many_others, detector_for, detector_from, in_patches
from vitreg.repair.per_image.hiding import MARKED, HideKeys
from vitreg.repair.per_image.neighbours import filled, patches_of
from vitreg.repair.settings import DetectedSettings, PrefixSettings
from vitreg.repair.subject import Subject

SIZES = (1, 2, 4, 8)  # how many cached tokens are tried
SAME = 0.001  # more of them must tame the norm by more than this share

Cache = dict[int, tuple[Tensor, Tensor]]  # block -> keys and values [T, key heads, d] of the candidates
Spot = tuple[int, int]  # an image of the part fitted on, in the order it is read, and a place on the grid


@dataclass(frozen=True)
class Delete:
    """Outliers leave: their places hold the mean of their neighbours, and `HideKeys` hides these places.

    A batch has no holes of different shape for each image. What stands in such a place is seen by no other token, so all
    others are as if it were gone.
    """

    detector: Detector

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Mark and fill them."""
        place.state[MARKED] = self.detector(tokens, place.layout)
        return FillMarked()(tokens, place)


@dataclass(frozen=True)
class FillMarked:
    """The places of deleted outliers are filled from their neighbours."""

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Fill them."""
        index, places = patches_of(place.layout, tokens.device)
        marked: Bool[Tensor, "B P"] = place.state[MARKED]
        return in_patches(tokens, place, filled(tokens[:, index], marked[:, places], places, place.layout.grid))


@dataclass(frozen=True)
class CachedKeys:
    """Keys and values of tokens of other images, which every token may attend to."""

    k: Float[Tensor, "T kv_heads d"]
    v: Float[Tensor, "T kv_heads d"]

    def __call__(self, qkv: QKV, _place: Place) -> QKV:
        """Add them."""
        k, v = (each.transpose(0, 1).to(qkv.k).expand(qkv.k.shape[0], -1, -1, -1) for each in (self.k, self.v))
        return qkv.with_keys(k, v)


def edits(found: Fitted, *, prefix: bool = True, deletion: bool = True) -> list[Edit]:
    """Add the cached tokens after the onset, and delete the image's own outliers.

    Args:
        prefix, deletion: only one of both, for the controls.
    """
    details, made = found.details, []
    if deletion:
        made.append(Edit("block", details["block"], Delete(detector_from(details))))
    for block in details["changed"]:
        if prefix:
            made.append(Edit("attention", block, CachedKeys(found.tensors[f"k.{block}"], found.tensors[f"v.{block}"])))
        if deletion:
            made.append(Edit("attention", block, HideKeys("all")))
    return [*made, Edit("block", -1, FillMarked())] if deletion else made


def fit(subject: Subject, settings: PrefixSettings) -> Fitted:
    """Choose the cached tokens, and judge both halves of the repair alone."""
    refuse_last_block(subject, "prefix")
    backbone, onset = subject.backbone, subject.outliers.onset
    blocks = range(onset + 1, backbone.depth)
    detector = detector_for(subject, onset, DetectedSettings())
    spots = candidates(subject, detector, settings.candidates)
    cache = keys_and_values(subject, spots, blocks)

    def with_tokens(chosen: Sequence[int]) -> Fitted:
        return Fitted(
            {f"{name}.{block}": each[list(chosen)] for block in blocks for name, each in zip("kv", cache[block], strict=True)},
            {"block": onset, "changed": list(blocks), "detector": asdict(detector)},
        )  # fmt: skip

    chosen, tried = _chosen(subject, with_tokens, len(spots), settings.tokens)
    found = with_tokens(chosen)
    details = {
        **found.details,
        "tokens": len(chosen),
        "chosen": [list(spots[index]) for index in chosen],
        "tried": tried,
    }
    return Fitted(found.tensors, {**details, "controls": _controls(subject, found)})


def candidates(subject: Subject, detector: Detector, count: int) -> list[Spot]:
    """Return the most extreme token of each image after the onset, of the images where it is most extreme; for a control
    an ordinary token by lot.

    Raises:
        UserError: if no image has an outlier there.
    """
    onset, seen = subject.outliers.onset, 0
    found: list[tuple[float, int, int]] = []
    for trace in _traces(subject, Capture(norms=[onset])):
        norms = _outwards(patch_norms(trace, onset), detector)
        marked = subject.outliers.beyond(patch_norms(trace, onset))
        extreme = norms.nan_to_num(-torch.inf).masked_fill(~marked, -torch.inf).max(1)
        places = extreme.indices
        if subject.random:
            one = torch.zeros_like(marked).scatter(1, places[:, None], True)
            lots = [
                as_many_others(row[None], subject.seed + seen + index) for index, row in enumerate(one | norms.isnan())
            ]
            places = torch.cat(lots).int().argmax(1)
        found += [
            (-value, seen + index, place)
            for index, (value, place) in enumerate(zip(extreme.values.tolist(), places.tolist(), strict=True))
            if value > -torch.inf
        ]
        seen += len(norms)
    if not found:
        raise UserError("none of these images has an outlier, so no token can be cached; take more images.")
    return [(image, place) for _, image, place in sorted(found)[:count]]


def keys_and_values(subject: Subject, spots: Sequence[Spot], blocks: Sequence[int]) -> Cache:
    """Return what attention reads of some tokens, in some blocks; images without any of them are not run."""
    kept: dict[int, dict[int, tuple[Tensor, Tensor]]] = {block: {} for block in blocks}
    seen = 0
    for pixels in subject.batches("fit"):
        for number, (image, place) in enumerate(spots):
            if not seen <= image < seen + len(pixels):
                continue
            trace = subject.backbone.trace(pixels[image - seen][None], Capture(qkv=blocks))
            for block in blocks:
                token, qkv = int(trace.layout_before(block).patch_index[place]), trace.qkv(block)
                kept[block][number] = (qkv.k[0, :, token].float().cpu(), qkv.v[0, :, token].float().cpu())
        seen += len(pixels)
    order = range(len(spots))
    return {
        block: (torch.stack([each[i][0] for i in order]), torch.stack([each[i][1] for i in order]))
        for block, each in kept.items()
    }


def _traces(subject: Subject, capture: Capture) -> Iterator[Trace]:
    for pixels in subject.batches("fit"):
        yield subject.backbone.trace(pixels, capture)


def _outwards(norms: Tensor, detector: Detector) -> Tensor:
    """Norms that are larger the more extreme they are: on the low side their negatives."""
    return norms if detector.side == "high" else -norms


def _chosen(
    subject: Subject, with_tokens: Any, count: int, wanted: int | None
) -> tuple[list[int], list[dict[str, Any]]]:
    """Add candidates one by one, and return the smallest set that is as good as any; also what was tried."""
    sizes = [size for size in SIZES if size <= count] if wanted is None else [min(wanted, count)]
    chosen: list[int] = []
    tried: dict[int, float] = {}
    while len(chosen) < sizes[-1]:
        left = [index for index in range(count) if index not in chosen]
        norms = {
            index: _extreme_norm(
                subject.backbone.edited(edits(with_tokens([*chosen, index]), deletion=False), "prefix"), subject
            )
            for index in left
        }
        best = min(left, key=lambda index: norms[index])
        chosen.append(best)
        tried[len(chosen)] = norms[best]
    best = min(tried[size] for size in sizes)
    size = min(each for each in sizes if tried[each] <= best + SAME * abs(best))
    return chosen[:size], [{"tokens": each, "extreme_norm": abs(tried[each])} for each in sizes]


def _extreme_norm(model: Backbone, subject: Subject) -> float:
    """Return the most extreme patch norm, mean over images and over the blocks after the onset."""
    record, blocks = subject.outliers.record, range(subject.outliers.onset + 1, model.depth)
    total, count = 0.0, 0
    for pixels in subject.batches("tune"):
        trace = model.trace(pixels, Capture(norms=blocks))
        for block in blocks:
            norms = patch_norms(trace, block)
            outwards = norms if record.side == "high" else -norms
            total += float(outwards.nan_to_num(-torch.inf).amax(1).double().sum())
            count += len(norms)
    return total / max(count, 1)


def _controls(subject: Subject, found: Fitted) -> Mapping[str, Any]:
    """Return what the prefix alone and deletion alone do to images that nothing was chosen by."""
    effects = Effects(subject, subject.outliers, "held_out" if subject.images.count("held_out") else "tune")
    halves = {"prefix": edits(found, deletion=False), "deletion": edits(found, prefix=False)}
    return {name: effects.of(subject.backbone.edited(half, name)).model_dump() for name, half in halves.items()}


METHOD = Method(name="prefix", settings=PrefixSettings, fit=fit, edits=edits)
