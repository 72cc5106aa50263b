"""`scan`: one pass over the images, one verdict on the model. Puts backbone, images and statistics together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitreg.verbs.doctor import doctor
from vitreg.analysis.outliers import detector as detector_named
from vitreg.analysis.tally import Tally
from vitreg.backbones import Backbone, load
from vitreg.data import Batch, ImageSource, fit, stream
from vitreg.errors import UserError
from vitreg.files import output_folder, write_text
from vitreg.records import ImagesRecord, ScanResult, Skipped
from vitreg.runtime import Processes, processes, provenance
from vitreg.verbs.examples import build_examples, choose_examples
from vitreg.verbs.measure import Measure
from vitreg.verbs.progress import progress
from vitreg.verbs.readout import Readout
from vitreg.verbs.token_table import write_token_table

Images = str | Path | Sequence[str | Path] | Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How to scan. Every field is a flag of `vitreg scan`."""

    size: tuple[int, int] | None = None  # height, width in pixels; the model's own if unset
    fit: Literal["pad", "crop", "resize"] = "resize"  # what to do where a side is no multiple of the patch
    detector: str = "mixture"  # mixture | mad[:k] | ratio[:factor] | absolute[:cutoff]
    limit: int | None = None  # scan at most this many images
    batch_size: int | None = None  # by tokens and device if unset
    workers: int | None = None  # decoding threads
    tokens: bool = False  # also write tokens.parquet: one row per token and layer
    examples: int = 8  # images shown on the page, half with most outliers, half with fewest
    seed: int = 0  # of the bootstrap over images


def scan(
    model: str | nn.Module | Backbone,
    images: Images,
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: ScanOptions | None = None,
    quiet: bool = True,
    **load_options: Any,
) -> ScanResult:
    """Look for artifacts in the feature maps of any Vision Transformer.

    Args:
        model: a spec such as "timm:vit_small_patch14_reg4_dinov2", a module, or a loaded backbone.
        images: files, folders, globs, archives, shards, list files; or a tensor [n, 3, H, W] prepared for the model.
        out: folder for result.json, report.html and figures/; nothing is written without it.
        weights: a checkpoint for the spec.
        options: see `ScanOptions`.
        load_options: passed to `vitreg.load`.
    Returns:
        the record that result.json holds.
    Raises:
        UserError: for a model that cannot be loaded, images of which none can be read, or an unwritable folder.
    """
    options = options or ScanOptions()
    detector = detector_named(options.detector)
    started = datetime.now(UTC)
    folder = output_folder(Path(out)) if out is not None else None
    with processes() as group:
        source = (
            None
            if isinstance(images, Tensor)
            else ImageSource([images] if isinstance(images, str | Path) else list(images))
        )
        backbone = model if isinstance(model, Backbone) else load(model, weights=weights, **load_options)
        size = _image_size(backbone, images, options)
        readable, notes = _attention(backbone)
        measure = Measure(backbone, size, attention=readable)
        with Tally(backbone.depth, measure.layout, folder) as tally:
            batches = (
                _TensorBatches(images, options) if source is None else _SourceBatches(source, backbone, options, group)
            )
            interrupted = _run(batches, measure, tally, options, group, quiet)
            sums = tally.sums.over(group)
            skipped = sorted(itertools.chain(*group.gather(batches.skipped)), key=lambda s: s.name)
            if not sums.images[0]:
                raise UserError(_nothing_read(skipped, interrupted))
            readout = Readout(tally, sums, group, detector, options.seed)
            table = sorted(
                itertools.chain(
                    *group.gather(list(zip(tally.order.tolist(), tally.names, readout.per_image.tolist(), strict=True)))
                )
            )
            if folder is not None and options.tokens:
                write_token_table(folder, tally, readout, group)
        shown = choose_examples(table, options.examples)
        result = ScanResult(
            model=readout.model_record(backbone, size, notes),
            images=ImagesRecord(
                seen=int(sums.images[0]), skipped=skipped, interrupted=interrupted, planned=batches.planned
            ),
            settings={**asdict(options), "attention_queries": len(measure.queries)},
            layers=readout.layers,
            verdict=readout.verdict,
            positions=readout.positions,
            redundancy=readout.redundancy,
            per_image=readout.histogram_per_image([count for _, _, count in table]),
            examples=[name for _, name, _ in shown],
            lint=[finding for finding in doctor(backbone) if finding.level != "ok"],
            provenance=provenance(
                started=started,
                device=backbone.device,
                precision=str(backbone.dtype).removeprefix("torch."),
                processes=group.world,
                seed=options.seed,
            ),
        )
        if folder is not None and group.first:
            _write(folder, result, build_examples(backbone, batches, shown, readout, attention=readable))
    return result


def _write(folder: Path, result: ScanResult, examples: list[Any]) -> None:
    from vitreg.report import write_figures, write_report

    write_figures(result, examples, folder)
    write_report(result, examples, folder)
    # Last: whoever sees result.json may rely on the rest.
    write_text(folder / "result.json", result.model_dump_json(indent=1, by_alias=True))


def _run(
    batches: Iterable[Batch], measure: Measure, tally: Tally, options: ScanOptions, group: Processes, quiet: bool
) -> bool:
    """Feed every batch to the tally. Returns True if the user stopped it; what was counted is kept."""
    planned = getattr(batches, "planned", None)
    try:
        with progress("scanning", planned, unit="images", show=group.first and not quiet) as advance:
            for batch in batches:
                try:
                    tally.add(measure(batch.indices, batch.names, batch.pixels))
                except ValueError as error:
                    if "not finite" in str(error):
                        raise UserError(f"{error} in {measure.backbone.dtype}; try --precision fp32.") from error
                    raise
                except OSError as error:
                    raise UserError(
                        f"cannot keep the norms of the tokens: {error.strerror or error}; free some disk space."
                    ) from error
                advance(len(batch.indices))
    except KeyboardInterrupt:
        return True
    return False


class _SourceBatches:
    """Batches of an image source, of this process's share."""

    def __init__(self, source: ImageSource, backbone: Backbone, options: ScanOptions, group: Processes) -> None:
        if backbone.preprocess is None:
            raise UserError("this backbone has no preprocessing; give tensors, or load the model by its spec.")
        preprocess = backbone.preprocess.with_size(options.size) if options.size else backbone.preprocess
        self._patch, self._policy = backbone.anatomy.patch, options.fit
        self._stream = stream(
            source,
            preprocess,
            options.batch_size or automatic_batch_size(backbone, _fitted(preprocess.size, self._patch, options.fit)),
            rank=group.rank,
            world=group.world,
            workers=options.workers,
            min_side=min(self._patch),
            limit=options.limit,
        )
        total = source.length
        self.planned = min(total, options.limit) if total is not None and options.limit else total

    @property
    def skipped(self) -> list[Skipped]:
        """What gave no picture so far."""
        return self._stream.skipped

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._stream:
            yield replace(batch, pixels=fit(batch.pixels, self._patch, self._policy))

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        """One image once more: pixels for the eye uint8 [H, W, 3], and for the model [1, 3, H, W]."""
        preprocess = self._stream.preprocess
        pixels = fit(preprocess(self._stream.source[index].open())[None], self._patch, self._policy)
        return np.asarray(preprocess.unnormalise(pixels[0])), pixels


class _TensorBatches:
    """Batches of a tensor that is already prepared for the model."""

    def __init__(self, images: Tensor, options: ScanOptions) -> None:
        self.images = images[: options.limit]
        self.skipped: list[Skipped] = []
        self.planned = len(self.images)
        self._batch_size = options.batch_size or 16

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self._batch_size):
            pixels = self.images[start : start + self._batch_size]
            indices = torch.arange(start, start + len(pixels))
            yield Batch(indices, tuple(f"image {i}" for i in indices.tolist()), pixels)

    def again(self, index: int) -> tuple[np.ndarray, Tensor]:
        """One image once more, stretched to its own range for the eye."""
        pixels = self.images[index : index + 1].float()
        shown = (pixels[0] - pixels.amin()) / (pixels.amax() - pixels.amin()).clamp(min=1e-6)
        return (shown.permute(1, 2, 0) * 255).byte().cpu().numpy(), pixels


def automatic_batch_size(backbone: Backbone, size: tuple[int, int]) -> int:
    """As many images as keep about 4000 tokens (CPU: caches) or 64 000 (GPU: occupancy) in flight."""
    tokens = backbone.layout(size).length
    return max(1, min((64_000 if backbone.device.type == "cuda" else 4_200) // tokens, 256))


def _image_size(backbone: Backbone, images: Any, options: ScanOptions) -> tuple[int, int]:
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(f"images must be [n, 3, height, width], not {list(images.shape)}.")
        return images.shape[2], images.shape[3]
    size = options.size or (backbone.preprocess.size if backbone.preprocess else (224, 224))
    return _fitted(size, backbone.anatomy.patch, options.fit)


def _fitted(size: tuple[int, int], patch: tuple[int, int], policy: Literal["pad", "crop", "resize"]) -> tuple[int, int]:
    fitted = fit(torch.empty(1, 1, *size), patch, policy)
    return fitted.shape[2], fitted.shape[3]


def _attention(backbone: Backbone) -> tuple[bool, list[str]]:
    """Whether attention can be read, and the sentence that says why not."""
    status = backbone.attention_status()
    return status.readable, [] if status.readable else [f"Attention was not read: {status.reason}"]


def _nothing_read(skipped: list[Skipped], interrupted: bool) -> str:
    if interrupted:
        return "stopped before the first image was scanned; nothing was written."
    return (
        f"none of the {len(skipped)} images could be read; the first, {skipped[0].name}: {skipped[0].reason}."
        if skipped
        else "no images."
    )
