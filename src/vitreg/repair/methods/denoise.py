"""Averages over shifted views, as PH-Reg's teacher and DVT take them: what sits at a place of the grid averages out, what
belongs to the image stays. Alternatively the part of the output that depends on the place alone is subtracted.

Order of the shifts (farthest points over all whole patches within reach), flips of every other view, the median in place
of the mean, and the class token of the view that was not shifted are vitreg's own. So is the place where the position part
is subtracted (the output of the last block, before the final norm, where it adds up with the content), and its median over
the grid where a mean is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.edits import Edit, Place
from vitreg.errors import UserError
from vitreg.models.posembed import resample_positions
from vitreg.repair.method import Fitted, Method
from vitreg.repair.outliers import NORMS, patch_norms
from vitreg.repair.settings import DenoiseSettings
from vitreg.repair.subject import Subject
from vitreg.tokens import TokenLayout, Tokens

REACH = 0.15  # of the grid's sides; PH-Reg finds 10 to 15 % best
ENOUGH = 100  # images for the position part, whose mean map is taken of those to fit on


@dataclass(frozen=True)
class View:
    """An image moved down and right by whole patches, then perhaps flipped left to right."""

    down: int
    right: int
    flipped: bool = False


def views(grid: tuple[int, int], count: int, reach: float = REACH) -> list[View]:
    """Return the image itself and `count` - 1 shifted views, each as far as possible from those before it.

    Raises:
        UserError: if there are fewer shifts within reach.
    """
    far = [max(1, int(reach * side)) for side in grid]
    # Numbers, not tensors: those that are read while a graph is made are unknown in it.
    every = [(down, right) for down in range(-far[0], far[0] + 1) for right in range(-far[1], far[1] + 1)]
    if count > len(every):
        raise UserError(f"a {grid[0]}x{grid[1]} grid has {len(every)} shifts of at most {reach:.0%}, not {count}.")
    chosen = [View(0, 0)]
    nearest = [down**2 + right**2 for down, right in every]
    while len(chosen) < count:
        down, right = every[nearest.index(max(nearest))]
        chosen.append(View(down, right, flipped=len(chosen) % 2 == 1))
        nearest = [min(near, (a - down) ** 2 + (b - right) ** 2) for near, (a, b) in zip(nearest, every, strict=True)]
    return chosen


def seen(images: Float[Tensor, "B C H W"], view: View, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the images of a view, of the same size; what moves in from outside is a reflection."""
    down, right = view.down * patch[0], view.right * patch[1]
    height, width = images.shape[-2:]
    padded = F.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="reflect")
    moved = padded[..., max(-down, 0) :, max(-right, 0) :][..., :height, :width]
    if not view.flipped:
        return moved
    covered = grid[1] * patch[1]  # beyond it are pixels that no patch sees
    return torch.cat([moved[..., :covered].flip(-1), moved[..., covered:]], -1)


def moved_back(values: Float[Tensor, "B rows cols D"], view: View) -> Float[Tensor, "B rows cols D"]:
    """Return the patches of a view where the image has them; NaN where the view does not show them."""
    rows, cols = values.shape[1:3]
    if view.flipped:
        values = values.flip(2)
    top, left = max(view.down, 0), max(view.right, 0)
    kept = values[:, top : rows + min(view.down, 0), left : cols + min(view.right, 0)]
    return F.pad(kept, (0, 0, max(-view.right, 0), left, max(-view.down, 0), top), value=torch.nan)


@dataclass(frozen=True)
class ShiftAverage:
    """Patches are the mean or the median over shifted views; all other tokens are those of the image itself.

    Args:
        count: how many views.
        patch: (height, width) in pixels.
        center: what is taken of the views that show a patch, channel by channel.
        misplaced: a control: every view is moved back as another one should be.
    """

    count: int
    patch: tuple[int, int]
    center: str = "median"
    misplaced: bool = False

    def __call__(self, images: Tensor, place: Place) -> Tokens:
        """Run the model on every view, one after another."""
        assert place.run is not None
        grid = place.layout.grid
        if grid[1] * self.patch[1] > images.shape[-1]:
            raise UserError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels end within a patch, so they cannot be shifted by "
                "whole patches; resize them."
            )
        shown = views(grid, self.count)
        back = [*shown[1:], shown[0]] if self.misplaced else shown
        found: list[Tensor] = []
        own: Tokens | None = None
        for view, undo in zip(shown, back, strict=True):
            tokens = place.run(seen(images, view, self.patch, grid))
            own = tokens if own is None else own
            found.append(moved_back(tokens.patches.float().unflatten(1, grid), undo))
        assert own is not None
        center = mean if self.center == "mean" else median
        return with_patches(own, center(torch.stack(found)).flatten(1, 2))


def mean(values: Float[Tensor, "V ..."]) -> Float[Tensor, "..."]:
    """Return the mean over views, of numbers only."""
    return values.nanmean(0)


def median(values: Float[Tensor, "V ..."]) -> Float[Tensor, "..."]:
    """Return the median over views, of numbers only; of an even count the mean of the middle two."""
    ordered = values.sort(0).values  # NaN comes last
    last = (~values.isnan()).sum(0, keepdim=True).sub(1).clamp_min(0)
    low, high = (ordered.gather(0, index)[0] for index in (last // 2, (last + 1) // 2))
    return (low + high) / 2


def with_patches(tokens: Tokens, patches: Float[Tensor, "B P D"]) -> Tokens:
    """Return the tokens with other patches; those that are gone stay so."""
    layout = tokens.layout
    values = tokens.values.clone()
    present = layout.present
    index = layout.patch_index[present].to(values.device)
    values[:, index] = patches[:, present.to(patches.device)].to(values.dtype)
    return replace(tokens, values=values)


@dataclass(frozen=True)
class SubtractMap:
    """A map of the grid is subtracted from the patches.

    Args:
        values: [P, D], row by row; resampled for other grids.
        grid: (rows, cols).
    """

    values: Float[Tensor, "P D"]
    grid: tuple[int, int]

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        """Subtract it."""
        layout: TokenLayout = place.layout
        present = layout.present
        map_ = resample_positions(self.values, self.grid, layout.grid).to(tokens.device)[present.to(tokens.device)]
        index = layout.patch_index[present].to(tokens.device)
        return tokens.index_add(1, index, -map_.to(tokens.dtype).expand(tokens.shape[0], -1, -1))


def position_part(subject: Subject) -> tuple[Float[Tensor, "P D"], tuple[int, int]]:
    """Return the mean of the patches at every place after the last block, minus its median over the grid; and the grid.

    Its mean over the grid would hold a share of every outlier, and put it into all other patches.
    """
    total, count, grid = torch.zeros((), dtype=torch.float64), 0, (0, 0)
    for pixels in subject.batches():
        trace = subject.backbone.trace(pixels, Capture(hidden=[-1]))
        layout = trace.layout_after(-1)
        total = total + layout.take(trace.hidden(-1).double()).nan_to_num().sum(0).cpu()
        count, grid = count + len(pixels), layout.grid
    at_places = total / count
    return (at_places - at_places.median(0).values).float(), grid


def edits(found: Fitted) -> Sequence[Edit]:
    """Subtract the map, or average over views."""
    details: dict[str, Any] = dict(found.details)
    if "map" in found.tensors:
        rows, cols = details["grid"]
        return [Edit("block", -1, SubtractMap(found.tensors["map"], (rows, cols)))]
    height, width = details["patch"]
    return [
        Edit("forward", None, ShiftAverage(details["shifts"], (height, width), details["center"], details["misplaced"]))
    ]


def fit(subject: Subject, settings: DenoiseSettings) -> Fitted:
    """Measure the position part; shift averaging has nothing to fit."""
    backbone = subject.backbone
    if settings.position_part:
        if len(subject.images) < ENOUGH:
            raise UserError(
                f"the position part needs at least {ENOUGH} images, and there are {len(subject.images)}; shift averaging needs "
                "none."
            )
        values, grid = position_part(subject)
        if subject.random:
            values = values[torch.from_numpy(np.random.default_rng(subject.seed).permutation(len(values)))]
        found = Fitted({"map": values}, {"grid": list(grid)})
    else:
        shown = views(backbone.layout(subject.size).grid, settings.shifts)
        found = Fitted(
            {},
            {
                "patch": list(backbone.anatomy.patch),
                "shifts": settings.shifts,
                "center": settings.center,
                "views": [[view.down, view.right, view.flipped] for view in shown],
                "misplaced": subject.random,
            },
        )
    output = {
        "before": apart(backbone, backbone, subject),
        "after": apart(backbone.edited(edits(found), "denoise"), backbone, subject),
    }
    note = (
        "Only the output changes: blocks compute what they did, and their norms stay."
        if not settings.position_part
        else "Blocks before the last compute what they did, and their norms stay."
    )
    return Fitted(found.tensors, {**found.details, "output": output}, (note,))


def apart(repaired: Backbone, base: Backbone, subject: Subject) -> float | None:
    """Return how far outliers lie from the mean other patch of their image at the output, over the median distance of
    other patches: mean over the tokens that are outliers without the repair, on the images to choose with.

    1 is ordinary. None without outliers there.
    """
    total, count = 0.0, 0
    outliers = subject.outliers
    for pixels in subject.batches("tune"):
        were = outliers.beyond(patch_norms(base.trace(pixels, NORMS), outliers.onset), outliers.onset)
        patches = repaired(pixels).patches.float()
        for own, beyond in zip(patches, were, strict=True):
            others = own[~beyond & ~own.isnan().any(-1)]
            if bool(beyond.any()) and len(others):
                middle = others.mean(0)
                usual = (others - middle).norm(dim=-1).median()
                total += float(((own[beyond] - middle).norm(dim=-1) / usual).sum())
                count += int(beyond.sum())
    return total / count if count else None


METHOD = Method(name="denoise", settings=DenoiseSettings, fit=fit, edits=edits)
