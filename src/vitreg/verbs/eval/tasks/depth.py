"""`depth`: can one linear layer predict the depth of every pixel from the tokens (the paper, Tab. 2a, NYUd)?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.data.sets.pairs import DepthSides, open_depths
from vitreg.data.views.dense_augment import nyud_view
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.progress import progress
from vitreg.probes.dense.fit import NYUD, HeadTraining, fit_head
from vitreg.probes.dense.heads import BinsDepth, resized
from vitreg.probes.dense.losses import gradient_loss, sig_loss
from vitreg.probes.dense.scores import DEPTH_ERRORS, DepthScores, depth_errors, eigen_crop
from vitreg.results import Cell, Table
from vitreg.verbs.eval.dense.crops import Crops, Tokens
from vitreg.verbs.eval.dense.pictures import Album
from vitreg.verbs.eval.dense.stored import Stored, at_points
from vitreg.verbs.eval.dense.tokens import DenseSource, DenseTokens, Read
from vitreg.verbs.eval.settings.dense import NEAREST, DepthSettings
from vitreg.verbs.eval.task import Outcome

SHORT_STEPS, SHORT_RATE, SHORT_BATCH, BATCH = 1000, 1e-3, 8, 16
_WARMING_UP = 100  # steps without the loss's variance term
_GRADIENT_WEIGHT = 0.5
WITHOUT = "pass --no-cls"  # what helps where there is no class token
_OFFICIAL_BLOCKS = {24: (4, 11, 17, 23)}  # by number of blocks; other models use the last block of each quarter


@dataclass(frozen=True, kw_only=True)
class Depth(DepthSettings):
    """`DepthSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure.

        Raises:
            UserError: for data in another format, settings out of range, a model without a class token, or one
                whose preprocessing is unknown.
        """
        training, blocks = self.training(), blocks_to_read(bench.backbone.depth, int(self.layers))
        if self.cls and not bench.backbone.layout(bench.backbone.anatomy.native_size).cls:
            raise UserError(f"this model has no class token to put beside its patch tokens; {WITHOUT}.")
        sides = open_depths(bench.data, limit=bench.limit, scale=self.depth_scale)
        source = self._source(bench, sides, blocks)
        mean_map, mean = _mean_depths(source.training_maps(), self.max_depth)
        widths = [bench.backbone.anatomy.width * (2 if self.cls else 1)] * len(blocks)
        head = BinsDepth(widths, low=NEAREST, high=self.max_depth, seed=bench.seed).to(bench.backbone.device)
        show = bench.group.first and not bench.quiet
        with (
            closing(source.batches()) as batches,
            progress("training the head", training.steps, unit="steps", show=show) as advance,
        ):
            fit_head(head, lambda step: self._loss(head, step, *next(batches)), training, advance=advance)
        return self._outcome(source, sides, blocks, head, {"mean depth map": mean_map, "mean depth": mean.view(1, 1)})

    def training(self) -> HeadTraining:
        """Return the settings of the optimiser: NYUd's, over `steps` steps. Raises UserError."""
        self.check()
        short = self.protocol == "short"
        steps = (SHORT_STEPS if short else NYUD.steps) if self.steps is None else self.steps
        rate = (SHORT_RATE if short else NYUD.rate) if self.lr is None else self.lr
        return replace(NYUD, steps=steps, rate=rate, warmup=round(NYUD.warmup * steps / NYUD.steps))

    @property
    def images_of_a_step(self) -> int:
        """`batch`, or the protocol's default."""
        return (SHORT_BATCH if self.protocol == "short" else BATCH) if self.batch is None else self.batch

    def _source(self, bench: Bench, sides: DepthSides, blocks: tuple[int, ...]) -> DenseSource:
        if self.protocol == "short":
            return Stored(
                bench,
                sides.train,
                sides.test,
                blocks,
                batch=self.images_of_a_step,
                with_cls=self.cls,
                final_norm=self.final_norm,
                average_mirrored=True,
            )
        return Crops(
            bench,
            sides.train,
            sides.test,
            blocks,
            batch=self.images_of_a_step,
            with_cls=self.cls,
            final_norm=self.final_norm,
            view=nyud_view(),
            test_image=lambda image: image,
            look=_both_ways,
            settings={
                "training images": "NYUd's inside, turned by up to 2.5 degrees, mirrored, crops of 416x544, coloured",
                "test": "whole image, mean over image and mirror image",
            },
        )

    def _loss(self, head: BinsDepth, step: int, tokens: DenseTokens, truth: Tensor) -> Tensor:
        depth = resized(_read(head, tokens), truth.shape[1:])[:, 0]
        loss = sig_loss(depth, truth, warming_up=step < _WARMING_UP)
        return loss + _GRADIENT_WEIGHT * gradient_loss(depth, truth) if self.gradient_loss else loss

    def _outcome(
        self,
        source: DenseSource,
        sides: DepthSides,
        blocks: tuple[int, ...],
        head: BinsDepth,
        constants: dict[str, Float[Tensor, "h w"]],
    ) -> Outcome:
        scores, controls = DepthScores(), {name: DepthScores() for name in constants}
        unknown, cropped, album = 0, 0, Album()
        for case in source.judged():
            truth = case.truth
            counted = eigen_crop(truth.shape)
            with torch.inference_mode():
                depth = resized(case.predict(lambda tokens: _read(head, tokens)), truth.shape)[0, 0].cpu()
            errors = depth_errors(depth, truth, counted=counted, low=NEAREST, high=self.max_depth)
            if errors is None:
                unknown += 1
                continue
            cropped += counted is not None
            scores.add(errors)
            guesses = {name: resized(constant[None, None], truth.shape)[0, 0] for name, constant in constants.items()}
            first = next(iter(guesses))
            album.add(case, {"true depth": truth, "head": depth, f"control: {first}": guesses[first]})
            for name, guess in guesses.items():
                found = depth_errors(guess, truth, counted=counted, low=NEAREST, high=self.max_depth)
                assert found is not None  # the same pixels count
                controls[name].add(found)
        if not scores.images:
            raise UserError(
                f"no pixel of {sides.test.title} has a depth between {NEAREST:g} and {self.max_depth:g} m to judge; "
                "look at --depth-scale."
            )
        found = {"head": scores.mean(), **{name: part.mean() for name, part in controls.items()}}
        rows: list[list[Cell]] = [[name, *(values[e] for e in DEPTH_ERRORS)] for name, values in found.items()]
        notes = [f"{unknown} test images have no known depth in range and do not count."] if unknown else []
        return Outcome(
            headline="rmse",
            metrics=found["head"],
            units={"rmse": "m", "abs_rel": "", "log10": ""},
            controls={name: found[name]["rmse"] for name in constants},
            counts={"train": source.images, "test": scores.images},
            protocol=self._protocol(source, blocks, cropped / scores.images),
            larger_is_better=False,
            tables=(Table(title="Errors of depth", columns=["what", *DEPTH_ERRORS], rows=rows),),
            notes=(*sides.train.notes, *sides.test.notes, *notes),
            skipped=source.skipped,
            sheets={"depth": album.of_depths(f"Depth: RMSE {found['head']['rmse']:.3g} m", NEAREST, self.max_depth)},
        )

    def _protocol(self, source: DenseSource, blocks: tuple[int, ...], cropped: float) -> dict[str, Any]:
        """Return the protocol; `cropped` is the share of images judged inside Eigen's crop."""
        training = self.training()
        inside = {0.0: "whole image", 1.0: "Eigen's crop"}.get(cropped, "Eigen's crop at 480x640")
        norm = "after" if self.final_norm else "before"
        return {
            "protocol": self.protocol,
            "head": f"lin. {self.layers}, 256 bins up to {self.max_depth:g} m",
            "blocks": list(blocks),
            "tokens": f"patches{' and class token' if self.cls else ''}, {norm} the final norm",
            **source.settings,
            "pixels judged": f"{NEAREST:g} to {self.max_depth:g} m, {inside}",
            "loss": "SigLoss" + (" + 0.5 gradient loss" if self.gradient_loss else ""),
            "optimiser": "AdamW",
            "steps": training.steps,
            "warm-up": training.warmup,
            "learning rate": training.rate,
            "weight decay": training.weight_decay,
            "clip": training.clip,
            "batch": self.images_of_a_step,
        }


def blocks_to_read(depth: int, count: int) -> tuple[int, ...]:
    """Return the blocks that a head reads: the last one, or four like DINOv2's depth heads.

    Raises:
        UserError: if four are requested of a model with fewer.
    """
    if count == 1:
        return (depth - 1,)
    if depth < count:
        raise UserError(f"a head on {count} blocks for a model of {depth}; pass --layers 1.")
    return _OFFICIAL_BLOCKS.get(depth) or tuple(depth * (i + 1) // count - 1 for i in range(count))


def _read(head: BinsDepth, tokens: DenseTokens) -> Float[Tensor, "B 1 h w"]:
    return head(tokens.patches, tokens.cls, tokens.grid)[:, None]


def _both_ways(image: Tensor, tokens: Tokens, read: Read) -> Float[Tensor, "1 1 H W"]:
    """Average the prediction over an image and its mirror image, at the size of the image."""
    here, turned = (resized(read(tokens(view)), image.shape[-2:]) for view in (image, image.flip(-1)))
    return (here + turned.flip(-1)) / 2


def _mean_depths(maps: Iterator[Tensor], high: float) -> tuple[Float[Tensor, "h w"], Float[Tensor, ""]]:
    """Return the mean depth at every point, and over all points. A point without any known depth gets the latter.

    Raises:
        UserError: if no depth lies within the range of the bins.
    """
    total = count = torch.zeros(())
    for values in maps:
        if not total.ndim:
            total, count = (torch.zeros(values.shape, dtype=torch.float64) for _ in range(2))
        values = torch.from_numpy(at_points(np.asarray(values), total.shape)).double()
        known = (values > NEAREST) & (values < high)
        total += torch.where(known, values, 0)
        count += known
    if not count.any():
        raise UserError(f"no depth to learn from lies between {NEAREST:g} and {high:g} m; look at --depth-scale.")
    mean = total.sum() / count.sum()
    return torch.where(count > 0, total / count, mean).float(), mean.float()
