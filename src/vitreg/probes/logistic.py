"""L2-regularised logistic regression over a whole grid of C at once: the DINOv2 protocol for transfer sets (Table 1).

Minimises, for every C, exactly what scikit-learn's ``LogisticRegression(C=C)`` minimises:
C * (sum of the losses of all images) + ||W||^2 / 2, where the intercepts are not penalised. Several classes share one
softmax; two classes have one sigmoid, as in scikit-learn; multi-label targets have one sigmoid per label (one against
the rest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitreg.data.sets.sides import Metric
from vitreg.errors import UserError
from vitreg.probes.defaults import grid
from vitreg.probes.descent import minimise
from vitreg.probes.logistic_terms import Features, terms
from vitreg.probes.rows import Joined, Rows, Subset, check_labels, chunks
from vitreg.probes.scores import score

GRID = grid()
TOLERANCE = 1e-8
HELD_OUT = 10  # one in this many training images, rounded down, is held out to choose C if no other images are given
_ROWS = 8192  # of the features at a time, to predict

Targets = Int64[Tensor, " n"] | Int64[Tensor, "n C"]


class LogisticPath:
    """Solutions for many values of C.

    Features are not normalised, as in official evaluations. Their scale makes the problem ill-conditioned, so it is
    solved in centred coordinates along the principal axes, each scaled by its curvature. This changes the path but not
    the minimum: the penalty is invariant to rotations and the intercept absorbs the centre. Each C starts from the
    solutions for smaller ones, extrapolated over log C. Products are float32, sums and steps float64.

    Args:
        cs: values of C, rising.
        tolerance: relative distance of the objective from its minimum, about.
        steps: of L-BFGS at most, for each C.
        device: where it is computed; the CPU if None.
        memory: bytes of features kept in memory; larger features are read again in every step.
    Attributes:
        coef_: [S, C, D] for the S values of C and C classes (one row of two classes, as in scikit-learn).
        intercept_: [S, C].
        n_iter_: steps taken for each.
        converged_: whether the tolerance was met, for each.
    """

    def __init__(
        self,
        cs: Sequence[float] = GRID,
        *,
        tolerance: float = TOLERANCE,
        steps: int = 1000,
        device: torch.device | str | None = None,
        memory: int = 2 << 30,
    ) -> None:
        self.cs, self.tolerance, self.steps, self.memory = tuple(cs), tolerance, steps, memory
        self.device = torch.device(device or "cpu")
        if not self.cs or self.cs[0] <= 0 or any(a >= b for a, b in zip(self.cs, self.cs[1:], strict=False)):
            raise ValueError(f"values of C must be positive and rise, not {self.cs}")

    def fit(self, features: Rows, targets: Targets, classes: int | None = None) -> Self:
        """Solve for every C.

        Args:
            targets: class numbers, or 0 and 1 for every image and label.
            classes: C; one more than the largest class number if None. A class without an image is never predicted.
        Raises:
            UserError: for fewer than two images, one class only, labels outside 0 ... C - 1, or features not finite.
        """
        self.multilabel = targets.ndim == 2
        if self.multilabel:
            _check_many(features, targets)
            self.classes_ = targets.shape[1]
            counts = targets.sum(0)
            self._present = ((counts > 0) & (counts < len(targets))).nonzero()[:, 0]
            self._always = counts == len(targets)
            own = targets[:, self._present]
        else:
            self.classes_ = int(targets.max()) + 1 if classes is None and len(targets) else classes or 0
            check_labels(features, targets, self.classes_)
            self._present, own = targets.unique(return_inverse=True)
            if len(self._present) == 2:
                own = own[:, None]
        with torch.no_grad():
            self._solve(Features(features, self.device, self.memory), own)
        return self

    def decision(self, rows: Float[Tensor, "b D"], which: int) -> Float[Tensor, "b C"]:
        """Return logits for the value of C with number `which`; -inf for classes that had no image."""
        logits = rows @ self.coef_[which].T + self.intercept_[which]
        if not self.multilabel and len(self._present) == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        full = logits.new_full((len(rows), self.classes_), -torch.inf)
        if self.multilabel:
            full[:, self._always] = torch.inf
        full[:, self._present] = logits
        return full

    def score(self, features: Rows, targets: Targets, metric: Metric) -> list[float]:
        """Return the metric for every C, in percent; see `vitreg.probes.scores`."""
        if metric == "map":
            return [score(self.logits(features, i), targets, metric) for i in range(len(self.cs))]
        # For single labels keep only the predictions: features are read once for all C.
        answers = [
            torch.stack([self.decision(part, i).argmax(-1) for i in range(len(self.cs))])
            for _, part in chunks(features, _ROWS)
        ]
        return [score(found, targets, metric) for found in torch.cat(answers, 1)]

    def predict(self, features: Rows, which: int = -1) -> Int64[Tensor, " n"]:
        """Return the class with the largest logit."""
        return torch.cat([self.decision(part, which).argmax(-1) for _, part in chunks(features, _ROWS)])

    def logits(self, features: Rows, which: int = -1) -> Float[Tensor, "n C"]:
        """Return the logits of all images."""
        return torch.cat([self.decision(part, which) for _, part in chunks(features, _ROWS)])

    def _solve(self, features: Features, targets: Tensor) -> None:
        loss = terms(targets.to(self.device))
        shape = (loss.columns, features.rank + 1)  # weights along the axes, then the intercept
        point = torch.zeros(shape, dtype=torch.float64, device=self.device)
        drift, last = torch.zeros_like(point), self.cs[0]  # change of the solution by log C
        solutions, self.n_iter_, self.converged_ = [], [], []
        for c in self.cs:
            penalty = 1 / (c * features.count)  # for the mean of the losses
            start = point + drift * math.log(c / last)
            curvature = loss.curvature(features, start)  # [columns]
            scale = 1 / (curvature[:, None] * features.spread + penalty * features.penalised)
            found = minimise(
                lambda x, penalty=penalty: loss(features, x, penalty),
                start,
                scale,
                tolerance=self.tolerance,
                steps=self.steps,
            )
            if len(solutions):
                drift = (found.point - point) / math.log(c / last)
            point, last = found.point, c
            solutions.append(features.in_features(point))
            self.n_iter_.append(found.steps)
            self.converged_.append(found.converged)
        self.coef_ = torch.stack([weights for weights, _ in solutions])
        self.intercept_ = torch.stack([intercept for _, intercept in solutions])


class LogisticSweep:
    """Choose C on held-out images, then train on all: the probe of DINOv2's transfer sets.

    Args:
        cs, device, memory: as for `LogisticPath`.
        metric: by which C is chosen; the smallest of equally good ones.
        seed: of the images held out.
    Attributes:
        c_: the chosen C.
        held_out_: the metric on the images held out, for every C, in percent.
        path_: the solutions for all C, without the images held out.
        best_: the solution for the chosen C, learned from all images.
    """

    def __init__(
        self,
        cs: Sequence[float] = GRID,
        *,
        metric: Metric = "top1",
        seed: int = 0,
        device: torch.device | str | None = None,
        memory: int = 2 << 30,
    ) -> None:
        self.cs, self.seed, self.device, self.memory = tuple(cs), seed, device, memory
        self.metric: Metric = metric

    def fit(
        self,
        features: Rows,
        targets: Targets,
        classes: int | None = None,
        held_out: tuple[Rows, Targets] | None = None,
    ) -> Self:
        """Choose C and learn.

        Args:
            held_out: images to choose C by; a random tenth of the others if None, not stratified.
        Raises:
            UserError: as `LogisticPath.fit` does, or if no image can be held out.
        """
        if held_out is None:
            keep, out = split(len(features), self.seed)
            everything, labels = features, targets
            features, held_out = Subset(everything, keep), (Subset(everything, out), targets[out])
            targets = targets[keep]
        else:
            everything = Joined(features, held_out[0])
            labels = torch.cat([targets, held_out[1]])
        options = {"device": self.device, "memory": self.memory}
        self.path_ = LogisticPath(self.cs, **options).fit(features, targets, classes)
        self.held_out_ = self.path_.score(*held_out, self.metric)
        self.c_ = self.cs[int(np.argmax(self.held_out_))]
        self.best_ = LogisticPath((self.c_,), **options).fit(everything, labels, classes)
        return self


def split(count: int, seed: int) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " m"]]:
    """Split images at random into those to learn from and a tenth to choose by; both ascending.

    Raises:
        UserError: for fewer than two images.
    """
    if count < 2:
        raise UserError(f"{count} training image{'s' * (count != 1)} cannot be split to choose C; give more.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    out = max(1, count // HELD_OUT)
    return order[out:].sort().values, order[:out].sort().values


def _check_many(features: Rows, targets: Int64[Tensor, "n C"]) -> None:
    if len(features) != len(targets):
        raise ValueError(f"labels of {len(targets)} images for {len(features)}")
    if len(features) < 2:
        raise UserError(f"{len(features)} training image{'s' * (len(features) != 1)} cannot tell labels apart.")
    if not bool(((targets == 0) | (targets == 1)).all()):
        raise UserError("labels of several per image must be 0 or 1 each.")
    counts = targets.sum(0)
    if not bool(((counts > 0) & (counts < len(targets))).any()):
        raise UserError("every label holds for all training images or for none; there is nothing to learn.")
