"""One model over all images: which maps it can give, and the maps, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitreg.analysis import maps as draw
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.trace import Capture
from vitreg.data import ImageSource, stream
from vitreg.errors import UserError
from vitreg.passes.options import Fit
from vitreg.passes.view import View, view_of, view_of_tensors
from vitreg.records import Skipped
from vitreg.tokens import TokenLayout
from vitreg.verbs.maps.options import What
from vitreg.verbs.maps.values import ModelMaps

MIN_SIDE = 16  # pixels; the same for all models, so that all show the same images
KEPT_BYTES = 512 * 2**20  # hidden states in memory; with more layers or images the model runs again for the next layers


Query = tuple[Literal["cls", "registers"], int]  # role, number among tokens of this role


@dataclass(frozen=True, slots=True)
class MapRequest:
    """The maps one model will give, the maps it cannot give with the reason, and the tokens whose attention is read."""

    what: frozenset[str]
    layers: tuple[int, ...]
    queries: dict[str, Query]  # "CLS", "register 1", ... -> which token

    def tokens(self, layout: TokenLayout) -> list[int]:
        """Return the indices of the queries in a sequence."""
        return [getattr(layout, role)[number] for role, number in self.queries.values()]

    notes: tuple[str, ...]


class MappedModel:
    """One backbone and the images to map."""

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        images: ImageSource | Tensor,
        size: tuple[int, int] | None,
        policy: Fit,
        limit: int | None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.name, self.backbone = name, backbone
        self._images = images[:limit] if isinstance(images, Tensor) else images
        self._limit, self._workers = limit, workers
        self._view = self._seen(size, policy, batch_size)
        self.names: tuple[str, ...] = ()
        self.skipped: tuple[Skipped, ...] = ()

    def request(self, what: Sequence[What], layers: Sequence[int]) -> MapRequest:
        """Return which of the wanted maps this model can give."""
        found, notes = set(what), []
        attention = found & {"attention", "heads", "registers"}
        given = self.backbone.layouts(self.backbone.anatomy.native_size)
        count, added = (min(len(getattr(given[each], role)) for each in layers) for role in ("cls", "registers"))
        queries: dict[str, Query] = {("CLS" if count == 1 else f"CLS {i + 1}"): ("cls", i) for i in range(count)}
        registers: dict[str, Query] = {f"register {i + 1}": ("registers", i) for i in range(added)}
        if attention and not self.backbone.attention_status().readable:
            notes.append(f"{self.name}: no attention maps; {self.backbone.attention_status().reason}")
            found -= attention
        else:
            if "attention" in found and not queries:
                notes.append(f"{self.name}: no attention map of CLS, for it has no class token.")
                found.discard("attention")
            if "registers" in found and not registers:
                notes.append(f"{self.name}: no attention maps of registers, for it has none.")
                found.discard("registers")
            if "heads" in found and not queries and not registers:
                notes.append(f"{self.name}: no maps of single heads, for it has neither class token nor registers.")
                found.discard("heads")
        if found & {"heads", "registers"}:
            queries |= registers
        return MapRequest(frozenset(found), tuple(layers), queries if found & attention else {}, tuple(notes))

    def run(self, request: MapRequest, *, per_image: bool) -> Iterator[ModelMaps]:
        """Yield the maps layer by layer. The model runs once for as many layers as fit into KEPT_BYTES."""
        at_once, start = len(request.layers), 0
        while start < len(request.layers):
            layers = request.layers[start : start + at_once]
            kept = _Kept()
            for count, (names, pixels) in enumerate(self._batches()):
                if start == 0 and count == 0 and request.what & {"pca", "rgb"}:
                    at_once = self._layers_at_once(pixels, len(request.layers))
                    layers = request.layers[:at_once]
                kept.add(self.backbone, request, layers, names, pixels, self._view.shown(pixels))
            if not kept.names:
                raise UserError(self._nothing_read())
            self.names = tuple(kept.names)
            for layer in layers:
                yield kept.finish(self.name, self.backbone.depth, request, layer, per_image=per_image)
            start += at_once

    def _layers_at_once(self, pixels: Tensor, layers: int) -> int:
        patches = self.backbone.layout((pixels.shape[2], pixels.shape[3])).num_patches
        if isinstance(self._images, Tensor):
            images = len(self._images)
        else:
            images = min(self._images.length or 1, self._limit or 2**31)
        each = images * patches * self.backbone.anatomy.width * 4
        return max(1, min(layers, KEPT_BYTES // max(each, 1)))

    def _seen(self, size: tuple[int, int] | None, policy: Fit, batch: int | None) -> View:
        if not isinstance(self._images, Tensor):
            return view_of(self.backbone, size=size, policy=policy, batch=batch)
        view = view_of_tensors(self.backbone, self._images, policy=policy, batch=batch)
        if size is not None and size != (self._images.shape[2], self._images.shape[3]):
            raise UserError("size is for image files; resize a tensor before you pass it.")
        return replace(view, preprocess=self.backbone.preprocess)  # to show the pictures

    def _batches(self) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        batch = self._view.batch
        if isinstance(self._images, Tensor):
            for start in range(0, len(self._images), batch):
                pixels = self._images[start : start + batch]
                yield tuple(f"image {start + i}" for i in range(len(pixels))), self._view.fit(pixels)
            return
        batches = stream(
            self._images, self._view.pictures, batch, workers=self._workers, min_side=MIN_SIDE, limit=self._limit
        )
        for each in batches:
            yield each.names, self._view.fit(each.pixels)
        self.skipped = tuple(batches.skipped)

    def _nothing_read(self) -> str:
        if not self.skipped:
            return "no images."
        first = self.skipped[0]
        return f"none of the {len(self.skipped)} images could be read; the first, {first.name}: {first.reason}."


class _Kept:
    """The values of one pass over the images, by layer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.layouts: dict[int, TokenLayout] = {}  # of the output of each block
        self.tokens: dict[int, int] = {}  # number that attend in a block
        self.size = (0, 0)  # of the images as the model saw them
        self.inputs: list[np.ndarray] = []
        self.rows: dict[int, list[Tensor]] = {}  # mean over heads, [B, Q, rows, cols]
        self.heads: dict[int, list[Tensor]] = {}  # [B, heads, Q, rows, cols]
        self.patches: dict[int, list[Tensor]] = {}  # [B, P, D], before the final norm
        self.norms: dict[int, list[Tensor]] = {}  # [B, rows, cols]

    def add(
        self,
        backbone: Backbone,
        request: MapRequest,
        layers: Sequence[int],
        names: Sequence[str],
        pixels: Tensor,
        shown: np.ndarray,
    ) -> None:
        """Run one batch and keep the requested values, float32 on the CPU."""
        components = bool(request.what & {"pca", "rgb"})
        layouts = backbone.layouts((pixels.shape[2], pixels.shape[3]))
        queries = {layer: request.tokens(layouts[layer]) for layer in layers} if request.queries else {}
        capture = Capture(
            hidden=layers if components else (),
            norms=layers if "norm" in request.what else (),
            rows=queries or None,
        )
        trace = backbone.trace(pixels, capture)
        self.size = (pixels.shape[2], pixels.shape[3])
        self.names += names
        self.inputs.append(shown)
        for layer in layers:
            layout = self.layouts[layer] = trace.layout_after(layer)
            given = trace.layout_before(layer)
            self.tokens[layer] = given.length
            if queries:
                rows = trace.attention(layer, queries[layer])  # [B, heads, Q, N]
                self.rows.setdefault(layer, []).append(draw.attention_maps(rows, given).cpu())
                if "heads" in request.what:
                    self.heads.setdefault(layer, []).append(draw.attention_maps_per_head(rows, given).cpu())
            if components:
                self.patches.setdefault(layer, []).append(layout.take(trace.hidden(layer)).float().cpu())
            if "norm" in request.what:
                norms = layout.take(trace.norms(layer), -1).cpu().unflatten(1, layout.grid)
                self.norms.setdefault(layer, []).append(norms)

    def finish(self, model: str, depth: int, request: MapRequest, layer: int, *, per_image: bool) -> ModelMaps:
        """Turn one layer into arrays, and free its hidden states."""
        layout = self.layouts[layer]
        rows = torch.cat(self.rows.pop(layer)).numpy() if request.queries else None
        heads = torch.cat(self.heads.pop(layer)).numpy() if "heads" in request.what else None
        inputs = np.concatenate(self.inputs)
        pca = rgb = None
        if request.what & {"pca", "rgb"}:
            patches = torch.cat(self.patches.pop(layer))  # [n, P, D]
            if not torch.isfinite(patches[:, layout.present]).all():
                raise UserError(f"block {layer} of {model} puts out inf or nan; try --precision fp32.")
            if "pca" in request.what:
                pca = draw.first_component(patches, layout.grid, per_image=per_image, present=layout.present).numpy()
            if "rgb" in request.what:
                rgb = draw.pca_rgb(patches, layout.grid, per_image=per_image, present=layout.present).numpy()
        return ModelMaps(
            model=model,
            layer=layer,
            depth=depth,
            tokens=self.tokens[layer],
            image_size=self.size,
            grid=layout.grid,
            inputs=inputs,
            attention={q: rows[:, i] for i, q in enumerate(request.queries)} if rows is not None else {},
            heads={q: heads[:, :, i] for i, q in enumerate(request.queries)} if heads is not None else {},
            pca=pca,
            rgb=rgb,
            norm=torch.cat(self.norms.pop(layer)).numpy() if "norm" in request.what else None,
            components="fitted to every image alone" if per_image else "fitted to all images together",
        )
