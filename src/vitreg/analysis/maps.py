"""Maps on the patch grid: attention, principal components, norms (the paper's Figs. 1, 2, 9, 14, 15 and 16).

Pure functions of tensors, computed in fp32. `backbones.trace` provides the numbers; `report.sheets` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.tokens import TokenLayout

FAR = 5.0  # a robust fit leaves out tokens further from the centre than median + FAR * 1.4826 * MAD


def attention_maps(rows: Float[Tensor, "B heads Q N"], layout: TokenLayout) -> Float[Tensor, "B Q rows cols"]:
    """Attention that each query pays to each patch, averaged over heads (the paper's Figs. 1, 2, 9 and 14).

    The paper does not say how heads were combined; follow-up work takes the mean. A map does not sum to 1: the rest of
    the attention goes to class, register and other tokens. Patches that are gone are NaN.
    """
    return attention_maps_per_head(rows, layout).mean(1)


def attention_maps_per_head(
    rows: Float[Tensor, "B heads Q N"], layout: TokenLayout
) -> Float[Tensor, "B heads Q rows cols"]:
    """Attention that each query pays to each patch, per head.

    Raises:
        ValueError: if the rows do not run over the N tokens of the layout.
    """
    if rows.shape[-1] != layout.length:
        raise ValueError(f"attention rows over {rows.shape[-1]} tokens do not fit a layout of {layout.length}")
    return layout.take(rows, -1).float().unflatten(-1, layout.grid)


def received(rows: Float[Tensor, "B heads Q N"], queries: Sequence[int]) -> Float[Tensor, "B N"]:
    """Mean attention each key receives from the other tokens, averaged over heads.

    A token's attention to itself is left out: a token that attends only to itself is not a sink. Under uniform
    attention, averaged over all queries, every key receives 1 / N. NaN for a key that was the only query.

    >>> for b in range(B):
    ...     for key in range(N):
    ...         others = [i for i, query in enumerate(queries) if query != key]
    ...         out[b, key] = mean(rows[b, h, i, key] for h in range(heads) for i in others)

    Args:
        rows: softmaxed attention of the queries, one row each.
        queries: which token each row belongs to; length Q.
    Raises:
        ValueError: if there is not one query per row.
    """
    if len(queries) != rows.shape[2]:
        raise ValueError(f"{len(queries)} queries were named for {rows.shape[2]} attention rows")
    mean = rows.float().mean(1)  # [B, Q, N]
    other = torch.ones(mean.shape[1:], device=mean.device)  # [Q, N]
    other[torch.arange(len(queries)), torch.tensor(list(queries), dtype=torch.long)] = 0
    return (mean * other).sum(1) / other.sum(0)


def mass_mask(maps: Float[Tensor, "*batch rows cols"], mass: float = 0.6) -> Bool[Tensor, "*batch rows cols"]:
    """Mark the strongest patches that together hold `mass` of a map's attention, as DINO's figures do (60 %).

    The smallest set whose share reaches `mass`; of equal values the earlier patch (row-major) comes first.

    Raises:
        ValueError: if mass is not in (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass is a share in (0, 1], got {mass}")
    flat = maps.float().flatten(-2).nan_to_num(0.0)  # [*, P]; patches that are gone hold nothing
    share = flat / flat.sum(-1, keepdim=True)
    sorted_share, order = share.sort(stable=True, dim=-1, descending=True)
    before = sorted_share.cumsum(-1) - sorted_share  # held by the stronger patches
    return (
        torch.zeros_like(flat, dtype=torch.bool).scatter(-1, order, before < mass - 1e-6).unflatten(-1, maps.shape[-2:])
    )


@dataclass(frozen=True, slots=True)
class Components:
    """Fitted principal components: project with `scores`, whitened to unit variance over the fitted tokens."""

    mean: Float[Tensor, " D"]
    axes: Float[Tensor, "K D"]
    sigma: Float[Tensor, " K"]  # standard deviation (n - 1) of the fitted tokens along each axis
    share: Float[Tensor, " K"]  # of the variance of the fitted tokens
    fitted: int  # tokens that took part
    given: int

    def scores(self, tokens: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        """Coordinates in units of sigma; 0 along an axis without variance."""
        raw = (tokens.float() - self.mean) @ self.axes.T
        return torch.where(self.sigma > 0, raw / self.sigma.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def fit_components(tokens: Float[Tensor, "n D"], count: int, *, robust: bool = False) -> Components:
    """Fit the first principal components of a set of tokens, largest variance first. Signs are left arbitrary.

    Args:
        tokens: the set, from one or several images.
        count: K; axes beyond the rank of the set have sigma 0.
        robust: fit without tokens whose distance to the median token exceeds median + 5 * 1.4826 * MAD of these
            distances. Otherwise a few outliers dominate the first component and all else gets one colour.
    Raises:
        ValueError: with fewer than 2 tokens, or values that are not finite.
    """
    x = tokens.float()
    if len(x) < 2:
        raise ValueError(f"principal components need at least 2 tokens, got {len(x)}")
    if not torch.isfinite(x).all():
        raise ValueError("principal components need finite tokens, some are inf or nan")
    fitted = x[_near(x)] if robust else x
    mean = fitted.mean(0)
    centred = fitted - mean
    # Equal tokens differ from their mean by rounding only: that is no component.
    centred = centred * (centred.abs().amax() > 1e-6 * fitted.abs().amax())
    # Dividing by the largest value keeps the products of huge activations (1e3..1e5) inside the good range of fp32.
    scale = centred.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    centred = centred / scale
    variance, axes = torch.linalg.eigh(centred.T @ centred / max(len(fitted) - 1, 1))  # ascending
    variance, axes = variance.flip(0).clamp_min(0), axes.flip(1).T
    total = variance.sum().clamp_min(torch.finfo(torch.float32).tiny)
    # eigh leaves rounding noise where the variance is zero; whitening it would paint noise as structure.
    variance = torch.where(variance > 1e-6 * variance[0], variance, 0.0)
    kept = min(count, len(variance))
    sigma = torch.zeros(count, device=x.device)
    share = torch.zeros(count, device=x.device)
    full = torch.zeros(count, x.shape[1], device=x.device)
    sigma[:kept], share[:kept], full[:kept] = variance[:kept].sqrt() * scale, variance[:kept] / total, axes[:kept]
    return Components(mean=mean, axes=full, sigma=sigma, share=share, fitted=len(fitted), given=len(x))


def whitened_components(
    patches: Float[Tensor, "B P D"],
    grid: tuple[int, int],
    count: int,
    *,
    per_image: bool = False,
    robust: bool = False,
    present: Bool[Tensor, "P"] | None = None,
) -> Float[Tensor, "B rows cols K"]:
    """First `count` principal components of patch tokens in units of sigma, on their grid, with a fixed sign.

    The sign of a component is arbitrary. Here it is chosen so that patches on the border of the grid have the lower
    mean over the fitted images: the middle, usually the object, is positive. If border and inside have equal means, or
    the grid has no inside, the largest entry of the axis is made positive.

    Args:
        patches: patch tokens of B images.
        grid: (rows, cols) with rows * cols == P.
        count: K.
        per_image: fit every image alone, sign included, instead of all together. Together, a colour means the same in
            all.
        robust: see `fit_components`.
        present: which patches have a token, None for all; the others are left out of the fit and NaN in the result.
    Raises:
        ValueError: if the grid does not hold P patches.
    """
    if grid[0] * grid[1] != patches.shape[1]:
        raise ValueError(f"a {grid[0]}x{grid[1]} grid holds {grid[0] * grid[1]} patches, not {patches.shape[1]}")
    there = torch.ones(patches.shape[1], dtype=torch.bool) if present is None else present
    there = there.to(patches.device)
    found = patches.new_full((*patches.shape[:2], count), torch.nan, dtype=torch.float32)
    patches = patches.float() if bool(there.all()) else patches[:, there].float()
    patches = patches / patches.abs().amax().clamp_min(
        torch.finfo(torch.float32).tiny
    )  # avoids overflow of large distances
    sets = patches.split(1) if per_image else (patches,)
    maps = []
    for each in sets:
        components = fit_components(each.flatten(0, 1), count, robust=robust)
        scores = components.scores(each)  # [b, P, K]
        maps.append(scores * _signs(scores, components.axes, grid, there))
    found[:, there] = torch.cat(maps)
    return found.unflatten(1, grid)


def first_component(
    patches: Float[Tensor, "B P D"],
    grid: tuple[int, int],
    *,
    per_image: bool = False,
    present: Bool[Tensor, "P"] | None = None,
) -> Float[Tensor, "B rows cols"]:
    """First principal component of the patch tokens, whitened: draw it over [-3, 3] sigma (the paper's Fig. 15).

    Fitted on every token, outliers included, as in the paper: where a model has strong outliers this component shows
    them. Sign and arguments as in `whitened_components`.
    """
    return whitened_components(patches, grid, 1, per_image=per_image, present=present)[..., 0]


def pca_rgb(
    patches: Float[Tensor, "B P D"],
    grid: tuple[int, int],
    *,
    per_image: bool = False,
    robust: bool = True,
    present: Bool[Tensor, "P"] | None = None,
) -> Float[Tensor, "B rows cols 3"]:
    """First three principal components as red, green, blue in 0..1.

    The normalisation: fp32; centred by the mean; each component divided by its
    standard deviation over the fitted tokens; -3 sigma is 0, the mean 0.5, +3 sigma is 1, clipped. No background mask,
    no minimum-maximum stretch (one outlier would set it), no sigmoid. `robust` keeps far tokens out of the fit, not out
    of the picture: they are drawn in a clipped, saturated colour. Sign as in `whitened_components`.

    Args:
        patches: patch tokens of B images.
        grid: (rows, cols) with rows * cols == P.
        per_image: fit every image alone instead of all together.
        robust: leave outlier tokens out of the fit, see `fit_components`.
        present: see `whitened_components`.
    """
    scores = whitened_components(patches, grid, 3, per_image=per_image, robust=robust, present=present)
    return (scores / 6 + 0.5).clamp(0, 1)


def _near(x: Float[Tensor, "n D"]) -> Bool[Tensor, " n"]:
    """Mark tokens near the median token, always more than half of them."""
    distance = torch.linalg.vector_norm(x - x.median(0).values, dim=-1)  # [n]
    median = distance.median()
    deviation = (distance - median).abs().median()
    if deviation == 0:  # more than half are equally far: there is no scale for "far"
        return torch.ones_like(distance, dtype=torch.bool)
    return distance <= median + FAR * 1.4826 * deviation


def _signs(
    scores: Float[Tensor, "b n K"], axes: Float[Tensor, "K D"], grid: tuple[int, int], there: Bool[Tensor, "P"]
) -> Float[Tensor, " K"]:
    """+1 or -1 per component of the n patches that are there, as documented in `whitened_components`."""
    border = torch.zeros(grid, dtype=torch.bool, device=scores.device)
    border[0], border[-1], border[:, 0], border[:, -1] = True, True, True, True
    border = border.flatten()[there]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]  # [K]
    fallback = torch.where(largest < 0, -1.0, 1.0)
    if bool(border.all()) or not bool(border.any()):
        return fallback
    contrast = scores[:, ~border].mean((0, 1)) - scores[:, border].mean((0, 1))  # [K]
    return torch.where(contrast.abs() > 1e-4, torch.where(contrast < 0, -1.0, 1.0), fallback)


def overlap(maps: Float[Tensor, "R rows cols"]) -> float | None:
    """Return how much of their attention registers pay to the same patches, the mean over all pairs (Sec. 3.4, Fig. 9).

    >>> mean(minimum(maps[i] / maps[i].sum(), maps[j] / maps[j].sum()).sum() for i in range(R) for j in range(i))

    Patches that are NaN in any map, and maps without any attention, are left out. None without two maps.
    """
    rows = maps.double().flatten(1)
    rows = rows[:, ~rows.isnan().any(0)]
    rows = rows[rows.sum(1) > 0]
    if len(rows) < 2:
        return None
    rows = rows / rows.sum(1, keepdim=True)
    i, j = torch.triu_indices(len(rows), len(rows), offset=1)
    return float(torch.minimum(rows[i], rows[j]).sum(1).mean())
