"""`segmentation`: can one linear layer predict the class of every pixel from the patch tokens (the paper, Tab. 2a)?"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from vitreg.data.sets.example import some
from vitreg.data.sets.pairs import MaskSides, open_masks
from vitreg.data.sets.settings import IGNORE
from vitreg.data.views.dense_augment import ade20k_view, resized_image, resized_size
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.progress import progress
from vitreg.probes.dense.fit import ADE20K, HeadTraining, fit_head
from vitreg.probes.dense.heads import LinearSegmenter, classified, resized
from vitreg.probes.dense.losses import pixel_cross_entropy
from vitreg.probes.dense.scores import Overlaps
from vitreg.probes.dense.windows import over_windows
from vitreg.results import Cell, Table
from vitreg.verbs.eval.dense.crops import Crops, Tokens
from vitreg.verbs.eval.dense.pictures import Album
from vitreg.verbs.eval.dense.stored import Stored
from vitreg.verbs.eval.dense.tokens import DenseSource, DenseTokens, Read
from vitreg.verbs.eval.settings.dense import SegmentationSettings
from vitreg.verbs.eval.task import Outcome

SHORT_STEPS = 1000
_CROP, _STRIDE = 512, 341  # pixels, ADE20k


@dataclass(frozen=True, kw_only=True)
class Segmentation(SegmentationSettings):
    """`SegmentationSettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Measure.

        Raises:
            UserError: for data in another format, settings out of range, or a model whose preprocessing is
                unknown.
        """
        training = self.training()
        sides = open_masks(bench.data, limit=bench.limit, masks=self.masks, classes=self.classes, ignore=self.ignore)
        source = self._source(bench, sides)
        seen = _counts(source, len(sides.names))
        heads = self._fitted(bench, source, training, len(sides.names))
        return self._outcome(source, sides, seen, heads)

    def training(self) -> HeadTraining:
        """Return the settings of the optimiser: ADE20k's, over `steps` steps. Raises UserError."""
        self.check()
        steps = (SHORT_STEPS if self.protocol == "short" else ADE20K.steps) if self.steps is None else self.steps
        return replace(ADE20K, steps=steps, rate=self.lr, warmup=round(ADE20K.warmup * steps / ADE20K.steps))

    def _source(self, bench: Bench, sides: MaskSides) -> DenseSource:
        options = {"batch": self.batch, "with_cls": False, "final_norm": self.final_norm}
        last = (bench.backbone.depth - 1,)
        if self.protocol == "short":
            return Stored(bench, sides.train, sides.test, last, average_mirrored=False, **options)
        rows, cols = bench.backbone.anatomy.patch
        bench.backbone.layout(
            (-(-_CROP // rows) * rows, -(-_CROP // cols) * cols)
        )  # refuses a model that cannot take crops
        return Crops(
            bench,
            sides.train,
            sides.test,
            last,
            view=ade20k_view(_CROP, bench.view().pictures.mean),
            test_image=lambda image: resized_image(image, resized_size(image.shape[-2:], _CROP)),
            look=_slide,
            settings={
                "training images": "short side 512 times 0.5 to 2, crops of 512, flips, colours",
                "test": "short side 512, windows of 512, stride 341",
            },
            **options,
        )

    def _fitted(self, bench: Bench, source: DenseSource, training: HeadTraining, classes: int) -> nn.ModuleList:
        """Train the head and its control, the same head with the masks of the batch's next image."""
        heads = nn.ModuleList(LinearSegmenter(bench.backbone.anatomy.width, classes, bench.seed) for _ in range(2))
        heads.to(bench.backbone.device)
        show = bench.group.first and not bench.quiet
        with (
            closing(source.batches()) as batches,
            progress("training heads", training.steps, unit="steps", show=show) as advance,
        ):
            fit_head(heads, lambda _: _loss(heads, *next(batches)), training, advance=advance)
        return heads

    def _outcome(
        self, source: DenseSource, sides: MaskSides, seen: Int64[Tensor, " C"], heads: nn.ModuleList
    ) -> Outcome:
        names = sides.names
        commonest = int(seen.argmax())
        found = [Overlaps(len(names)) for _ in range(3)]
        judged, album = 0, Album()
        for case in source.judged():
            mask = case.truth
            with torch.inference_mode():
                logits = case.predict(partial(_both, heads)).chunk(2, dim=1)  # 2 x [1, C, h, w]
            maps = [classified(part, mask.shape)[0].cpu() for part in logits]
            album.add(
                case, {"true classes": mask, "head": maps[0], "control: trained with masks of other images": maps[1]}
            )
            for overlaps, labels in zip(found, [*maps, torch.full_like(maps[0], commonest)], strict=True):
                overlaps.add(labels, mask.long())
            judged += 1
        head, others, constant = found
        if not head.confusion.any():
            raise UserError(f"no pixel of the masks of {sides.test.title} has a class, so there is nothing to judge.")
        training, scores = self.training(), head.scores()
        return Outcome(
            headline="miou",
            metrics=scores,
            controls={
                "commonest class everywhere": constant.scores()["miou"],
                "trained with masks of other images": others.scores()["miou"],
            },
            counts={"train": source.images, "test": judged},
            classes=len(names),
            protocol={
                "protocol": self.protocol,
                "head": "batch norm, linear",
                "tokens": "patches of the last block" + (", final norm" if self.final_norm else ""),
                **source.settings,
                "optimiser": "AdamW",
                "steps": training.steps,
                "warm-up": training.warmup,
                "learning rate": self.lr,
                "weight decay": training.weight_decay,
                "batch": self.batch,
            },
            tables=(_table(names, head),),
            notes=(*sides.train.notes, *sides.test.notes, *_empty(names, seen, head)),
            skipped=source.skipped,
            sheets={"segmentation": album.of_classes(f"Classes of pixels: mIoU {scores['miou']:.1f} %")},
        )


def _loss(heads: nn.ModuleList, tokens: DenseTokens, masks: Tensor) -> Tensor:
    """Loss of the head with its masks plus loss of the control with the next image's; they share no parameters."""
    labels = masks.long()
    total = torch.zeros((), device=labels.device)
    for head, truth in zip(heads, (labels, labels.roll(1, 0)), strict=True):
        total = total + pixel_cross_entropy(resized(head(tokens.patches[0], tokens.grid), truth.shape[1:]), truth)
    return total


def _both(heads: nn.ModuleList, tokens: DenseTokens) -> Tensor:
    """Return the logits of both heads, concatenated [B, 2 C, rows, cols], so the model runs once for both."""
    return torch.cat([head(tokens.patches[0], tokens.grid) for head in heads], dim=1)


def _slide(image: Tensor, tokens: Tokens, read: Read) -> Tensor:
    """Average over windows."""
    return over_windows(lambda crop: resized(read(tokens(crop)), crop.shape[-2:]), image, _CROP, _STRIDE)


def _counts(source: DenseSource, classes: int) -> Int64[Tensor, " C"]:
    """Count the training pixels of each class."""
    total = torch.zeros(classes, dtype=torch.int64)
    for mask in source.training_maps():
        total += torch.bincount(mask[mask != IGNORE].long(), minlength=classes)
    return total


def _table(names: tuple[str, ...], overlaps: Overlaps) -> Table:
    shares = 100 * overlaps.confusion.sum(1) / overlaps.confusion.sum()
    rows: list[list[Cell]] = []
    for name, share, iou in zip(names, shares.tolist(), overlaps.iou().tolist(), strict=True):
        rows.append([name, share, None if iou != iou else 100 * iou])  # NaN: neither true nor predicted anywhere
    return Table(title="Intersection over union by class", columns=["class", "pixels, %", "IoU, %"], rows=rows)


def _empty(names: tuple[str, ...], seen: Int64[Tensor, " C"], overlaps: Overlaps) -> list[str]:
    """Report classes without training or test pixels."""
    judged = overlaps.confusion.sum(1) > 0
    notes = []
    for missing, what in (
        ((seen == 0) & judged, "with no pixel seen among those to learn from, but some to judge on"),
        (~judged, "with no pixel to judge on; their IoU is 0 where they are predicted, else they do not count"),
    ):
        found = [name for name, empty in zip(names, missing.tolist(), strict=True) if empty]
        if found:
            notes.append(f"{len(found)} of {len(names)} classes {what}: {some(found)}.")
    return notes
