"""Probes for what a patch token keeps of its patch: position and pixels (the paper, Sec. 2.2, Fig. 5b).

Both probes are linear and fitted on all patch tokens of the given images; the caller separates classes of tokens.
Closed form by default, so memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.probes.ridge import STRENGTHS, Ridge, SplitMoments


def patchify(images: Float[Tensor, "B C H W"], patch: tuple[int, int]) -> Float[Tensor, "B P pixels"]:
    """Cut images into patches, row-major; each patch is its pixels row by row, channels last.

    A reshape of the whole image would take strips of rows for patches.

    Args:
        patch: (height, width) in pixels.
    Raises:
        ValueError: if the sides are no multiples of the patch.
    """
    height, width = images.shape[-2:]
    if height % patch[0] or width % patch[1]:
        raise ValueError(f"{height}x{width} pixels do not divide into patches of {patch[0]}x{patch[1]}")
    cut = images.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))  # [B, C, rows, h, cols, w]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def grid_places(grid: tuple[int, int]) -> Int64[Tensor, "P 2"]:
    """(row, col) of every cell of a grid, row-major."""
    cells = torch.arange(grid[0] * grid[1])
    return torch.stack([cells // grid[1], cells % grid[1]], dim=1)


def cell_distance(
    found: Int64[Tensor, "B K"], grid: tuple[int, int], cells: Int64[Tensor, "K"] | None = None
) -> Float[Tensor, "B K"]:
    """Distance, in patches, from the cell found for each token to the cell it sits on.

    Args:
        found: indices of cells, row-major.
        cells: on which the tokens sit; None for all of the grid, row by row.
    """
    places = grid_places(grid).float().to(found.device)
    return (places[found] - (places if cells is None else places[cells.to(found.device)])).norm(dim=-1)


class PositionProbe:
    """Linear classifier: patch token -> which of the P cells of the grid it sits on, by least squares.

    One-hot cells, (row, col), and one-hot cells shuffled within each image (the control) are regressed together.

    Args:
        grid: (rows, cols).

    Attributes:
        cells_, places_, shuffled_: the fitted regressions.
    """

    def __init__(self, grid: tuple[int, int], *, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> None:
        self.grid, self.strengths = grid, strengths
        self.count = grid[0] * grid[1]
        self.moments = SplitMoments()
        self._one_hot = torch.eye(self.count)
        self._places = grid_places(grid).float()
        self._shuffle = torch.Generator().manual_seed(seed)

    def partial_fit(
        self, tokens: Float[Tensor, "B K D"], held_out: Bool[Tensor, "B"], cells: Int64[Tensor, "K"] | None = None
    ) -> PositionProbe:
        """Add the patch tokens of some images; the held-out images choose the strength of the penalty.

        Args:
            cells: on which the tokens sit; None for all of the grid, row by row.
        """
        cells = torch.arange(self.count) if cells is None else cells
        images, count, _ = tokens.shape
        if count != len(cells):
            raise ValueError(f"a {self.grid[0]}x{self.grid[1]} grid holds {len(cells)} patches, not {count}")
        orders = torch.rand(images, count, generator=self._shuffle).argsort(1)
        whole = [target[cells].expand(images, -1, -1) for target in (self._one_hot, self._places)]
        targets = torch.cat([*whole, self._one_hot[cells[orders]]], dim=2)  # [B, K, 2 P + 2]
        self.moments.add(tokens, targets.to(tokens.device), held_out)
        return self

    def finish(self) -> PositionProbe:
        """Solve. Raises ValueError unless there are images to fit and held-out ones."""
        fit, held_out = self.moments.both()
        count = self.count
        columns = (slice(0, count), slice(count, count + 2), slice(count + 2, None))
        self.cells_, self.places_, self.shuffled_ = (
            Ridge(self.strengths).fit(fit.targets(own), held_out.targets(own)) for own in columns
        )
        return self

    def predict(self, tokens: Float[Tensor, "B P D"], *, shuffled: bool = False) -> Int64[Tensor, "B P"]:
        """Return the most likely cell of each token; with `shuffled`, that of the control."""
        return (self.shuffled_ if shuffled else self.cells_).map_(tokens).argmax(-1)

    def regress(self, tokens: Float[Tensor, "B P D"]) -> Float[Tensor, "B P 2"]:
        """Return (row, col) of each token, in patches."""
        return self.places_.map_(tokens)


class PixelProbe:
    """Linear regression: patch token -> the pixels of its own patch.

    Args:
        patch: (height, width) in pixels.

    Attributes:
        ridge_: the fitted regression.
        mean_patch_: mean of the patches it was fitted on, [pixels]: the control.
    """

    def __init__(self, patch: tuple[int, int], *, strengths: Sequence[float] = STRENGTHS) -> None:
        self.patch, self.strengths = patch, strengths
        self.moments = SplitMoments()

    def partial_fit(
        self,
        tokens: Float[Tensor, "B K D"],
        images: Float[Tensor, "B C H W"],
        held_out: Bool[Tensor, "B"],
        cells: Int64[Tensor, "K"] | None = None,
    ) -> PixelProbe:
        """Add the patch tokens of some images; the held-out images choose the strength of the penalty.

        Args:
            cells: on which the tokens sit; None for all of the grid, row by row.
        """
        self.moments.add(tokens, self._patches(tokens, images, cells), held_out)
        return self

    def finish(self) -> PixelProbe:
        """Solve. Raises ValueError unless there are images to fit and held-out ones."""
        fit, held_out = self.moments.both()
        self.ridge_ = Ridge(self.strengths).fit(fit, held_out)
        self.mean_patch_ = (fit + held_out).mean_y
        return self

    def errors(
        self, tokens: Float[Tensor, "B K D"], images: Float[Tensor, "B C H W"], cells: Int64[Tensor, "K"] | None = None
    ) -> Float[Tensor, "B K"]:
        """L2 distance between the pixels of each patch and their prediction from the token, in units of the images."""
        return (self.ridge_.map_(tokens) - self._patches(tokens, images, cells)).norm(dim=-1)

    def control_errors(
        self, images: Float[Tensor, "B C H W"], cells: Int64[Tensor, "K"] | None = None
    ) -> Float[Tensor, "B K"]:
        """L2 distance between the pixels of each patch and the mean patch."""
        pixels = patchify(images, self.patch).float()
        pixels = pixels if cells is None else pixels[:, cells.to(pixels.device)]
        return (pixels - self.mean_patch_.to(pixels)).norm(dim=-1)

    def _patches(self, tokens: Tensor, images: Tensor, cells: Tensor | None) -> Tensor:
        pixels = patchify(images, self.patch).to(tokens.device, torch.float32)
        pixels = pixels if cells is None else pixels[:, cells.to(pixels.device)]
        if pixels.shape[:2] != tokens.shape[:2]:
            raise ValueError(f"tokens {list(tokens.shape[:2])} of images with patches {list(pixels.shape[:2])}")
        return pixels


class SoftmaxPositionProbe:
    """Linear classifier as `PositionProbe`, fitted by logistic regression on tokens that are held in memory.

    Full-batch L-BFGS on channels scaled to unit deviation; the L2 penalty is chosen on a tenth of the images.

    Args:
        penalties: factors of the squared weights beside the mean cross-entropy.
    """

    def __init__(
        self, grid: tuple[int, int], *, penalties: Sequence[float] = (1e-6, 1e-4, 1e-2), steps: int = 200
    ) -> None:
        self.grid, self.penalties, self.steps = grid, penalties, steps

    def fit(
        self, tokens: Float[Tensor, "n D"], cells: Int64[Tensor, "n"], held_out: tuple[Tensor, Tensor]
    ) -> SoftmaxPositionProbe:
        """Fit on tokens and the cells they sit on; `held_out` holds other tokens and cells, to choose the penalty by."""
        tokens = tokens.float()
        self.mean_, self.scale_ = tokens.mean(0), tokens.std(0).clamp(min=1e-6)
        x, cells = self._scaled(tokens), cells.to(tokens.device)
        best = float("inf")
        weight = torch.zeros(x.shape[1], self.grid[0] * self.grid[1], device=x.device)
        bias = torch.zeros(weight.shape[1], device=x.device)
        for penalty in sorted(self.penalties, reverse=True):  # from strong to weak, each starts at the one before
            weight, bias = self._solve(x, cells, weight, bias, penalty)
            loss = float(F.cross_entropy(self._scaled(held_out[0].float()) @ weight + bias, held_out[1].to(x.device)))
            if loss < best:
                best, self.penalty_, self.weight_, self.bias_ = loss, penalty, weight, bias
        return self

    def predict(self, tokens: Float[Tensor, "B P D"]) -> Int64[Tensor, "B P"]:
        """Return the most likely cell of each token."""
        return (self._scaled(tokens.float()) @ self.weight_.to(tokens.device) + self.bias_.to(tokens.device)).argmax(-1)

    def _scaled(self, tokens: Tensor) -> Tensor:
        return (tokens - self.mean_.to(tokens.device)) / self.scale_.to(tokens.device)

    def _solve(self, x: Tensor, cells: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        search = torch.optim.LBFGS([weight, bias], max_iter=self.steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            loss = F.cross_entropy(x @ weight + bias, cells) + penalty * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            search.step(closure)
        return weight.detach(), bias.detach()
