"""`scan`: one pass over the images, one verdict on the model. Puts backbone, images and statistics together."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitreg.analysis.outliers import detector as detector_named
from vitreg.analysis.tally import Sums, Tally
from vitreg.backbones import Backbone
from vitreg.backbones.identity import code_of
from vitreg.backbones.loading.load import opened, refuse_reloading
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.console.terminal import say
from vitreg.data.sources.content import hash_of
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes, processes, provenance, versions
from vitreg.passes import ahead
from vitreg.passes.batches import Batches, batches_of
from vitreg.passes.drawing import as_written, noted, place_of_interrupted
from vitreg.passes.findings import changes_of_tokens, findings, refuse_broken_weights
from vitreg.passes.given import Images
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.passes.progress import progress
from vitreg.passes.saved_pass import SavedPass, saved_pass
from vitreg.quantities import percent
from vitreg.records import ImagesRecord, ScanResult, Skipped, VerdictRecord, Watch
from vitreg.training.history import watch_of
from vitreg.verbs.scan.examples import Chosen, build_examples, choose_examples
from vitreg.verbs.scan.measure import Measure
from vitreg.verbs.scan.options import ScanOptions
from vitreg.verbs.scan.readout import Readout
from vitreg.verbs.scan.sinks import sinks_record, with_values
from vitreg.verbs.scan.token_table import write_token_table
from vitreg.writing.files import printable, results_folder, texts
from vitreg.writing.outputs import RECORD, Outputs, Stage


@takes(ScanOptions, ModelOptions)
def scan(
    model: str | nn.Module | Backbone,
    images: Images,
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: ScanOptions | None = None,
    quiet: bool = True,
    written: Callable[[Path], object] | None = None,
    **keywords: Any,
) -> ScanResult:
    """Look for artifacts in the feature maps of any Vision Transformer.

    Args:
        model: a spec such as "timm:vit_small_patch14_reg4_dinov2", a module, or a loaded backbone.
        images: files, folders, globs, archives, shards, list files; PIL pictures or arrays uint8 [h, w, 3]; a tensor
            [n, 3, H, W] prepared for the model; a Dataset of either; a DataLoader of such tensors.
        out: folder for result.json, report.html, figures/ and examples.npz; nothing is written without it.
        weights: a checkpoint for the spec.
        options: see `ScanOptions`; keywords override them.
        written: called with the folder of the result: `out`, or a folder beside it if `out` keeps a complete result.
        keywords: fields of `ScanOptions`, such as size and limit, and of `ModelOptions`, such as device and precision.
    Returns:
        the record that result.json holds.
    Raises:
        UserError: for a model that cannot be loaded, images none of which can be read, an unwritable folder, or a folder
            with the result of another verb or model.
    """
    options, load_options = split(ScanOptions, options, keywords, "scan")
    refuse_reloading(model, weights, load_options)
    if isinstance(images, Tensor) and options.size is not None:
        raise UserError("a tensor is scanned at its own size; leave the size out, or resize the images.")
    ahead.refuse_absent_inputs(images, files=[weights])
    started = datetime.now(UTC)
    with results_folder(out) as folder, processes() as group, contextlib.ExitStack() as held:
        outputs = None if folder is None else ahead.scan_outputs(folder, images, weights)
        if outputs is not None and group.first:
            ahead.refuse_other_scan(outputs.folder)
            outputs.check()
        backbone = opened(model, weights, load_options, size=options.pixels)
        _refuse(backbone, outputs if group.first else None)
        batches = batches_of(
            images, backbone, group, size=options.pixels, policy=options.fit, batch_size=options.batch_size,
            workers=options.threads, limit=options.limit,
        )  # fmt: skip
        identity = _identity(backbone, batches, options, given=isinstance(model, Backbone))
        saved = held.enter_context(saved_pass(folder, group, identity))
        seen = _pass_over(batches, backbone, options, saved, folder, group, held, show=group.first and not quiet)
        if outputs is not None and seen.interrupted and group.first:
            outputs = place_of_interrupted(outputs)
        stage, lacking = _stage_tokens(outputs if options.tokens else None, seen.tally, seen.readout, group, held)
        result, shown = _record(seen, batches, backbone, options, group, started)
        if outputs is not None and group.first:
            result, lacking = _write(outputs, result, shown, seen, batches, backbone, (stage, lacking), written)
        group.gather(None)  # the result is written
        if not seen.interrupted:
            saved.remove()
        if lacking is not None:
            raise UserError(f"{lacking.sentence.rstrip('.')}; the rest of the result is complete.")
    return result


def _refuse(backbone: Backbone, outputs: Outputs | None) -> None:
    """Refuse weights that are no numbers, and a folder with another model's result."""
    refuse_broken_weights(backbone)
    if outputs is not None:
        ahead.refuse_other_scan(outputs.folder, printable(backbone.spec))


@dataclass(frozen=True, slots=True)
class _Seen:
    """The result of one pass over the images, summed over processes; `skipped` lists those of all processes."""

    measure: Measure
    tally: Tally
    readout: Readout
    sums: Sums
    skipped: list[Skipped]
    interrupted: bool


def _pass_over(
    batches: Batches, backbone: Backbone, options: ScanOptions, saved: SavedPass, folder: Path | None,
    group: Processes, held: contextlib.ExitStack, *, show: bool,
) -> _Seen:  # fmt: skip
    """Run the model over every image, from where an interrupted pass stopped.

    Raises:
        UserError: if no image could be read.
    """
    measure = Measure(backbone, batches.size, attention=backbone.attention_status().readable)
    tally = held.enter_context(
        Tally(backbone.depth, measure.layout, folder, saved.spill, measure.present, measure.heads)
    )
    done = int(group.sum(np.array([saved.restore(tally, batches)]))[0])
    if done and group.first:
        of = "" if batches.planned is None else f" of {batches.planned}"
        say(f"vitreg: resumed: {done}{of} images done.", error=True)
    interrupted = _run(batches, measure, tally, saved, show=show)
    held.enter_context(saved.kept_if_stopped(tally, batches))
    sums = tally.sums.over(group)
    skipped = sorted(itertools.chain(*group.gather(batches.skipped)), key=lambda s: s.name)
    if not sums.images[0]:
        raise UserError(_nothing_read(skipped, interrupted))
    found = detector_named(options.detector)
    readout = Readout(tally, sums, group, found, options.seed, with_power=options.power, resamples=options.resamples)
    return _Seen(measure, tally, readout, sums, skipped, interrupted)


def _record(
    seen: _Seen, batches: Batches, backbone: Backbone, options: ScanOptions, group: Processes, started: datetime
) -> tuple[ScanResult, list[Chosen]]:
    """Build the record. Returns it, and the images for the page."""
    readout, attention = seen.readout, backbone.attention_status()
    found = detector_named(options.detector)
    table = _gather_counts(seen.tally, readout, group)
    shown = choose_examples([row for row in table if batches.shows(row[0])], options.examples)
    watched, unread = _watched(backbone)
    heads = sinks_record(seen.sums, readout, len(seen.measure.queries))
    notes = [] if attention.readable else [f"Attention was not read: {attention.reason}"]
    notes += changes_of_tokens(backbone.layouts(batches.size))
    result = ScanResult(
        schema="vitreg.scan/1",
        model=readout.model_record(backbone, batches.size, [*notes, *unread, *batches.notes]),
        images=ImagesRecord(
            seen=int(seen.sums.images[0]),
            skipped=seen.skipped,
            interrupted=seen.interrupted,
            planned=batches.planned,
            sha256=hash_of(seen.sums.content, int(seen.sums.images[0])),
        ),
        settings={**asdict(options), "attention_queries": len(seen.measure.queries) if attention.readable else 0},
        layers=readout.layers,
        verdict=_verdict(readout.verdict, backbone),
        positions=readout.positions,
        redundancy=readout.redundancy,
        per_image=readout.histogram_per_image([count for _, _, count in table]),
        own_median=readout.own_median,
        over_images=readout.over_images(found) if options.intervals else None,
        head_sinks=with_values(heads, backbone, batches, shown, readout) if group.first else heads,
        examples=[name for _, name, _ in shown],
        lint=[finding for finding in findings(backbone) if finding.level != "ok"],
        attention_unread="" if attention.readable else printable(attention.reason),
        watched=watched,
        provenance=provenance(
            started=started,
            device=backbone.device,
            precision=str(backbone.dtype).removeprefix("torch."),
            choice=backbone.precision_choice,
            processes=group.world,
            seed=options.seed,
        ),
    )
    return result, shown


def _write(
    outputs: Outputs, result: ScanResult, shown: list[Chosen], seen: _Seen, batches: Batches, backbone: Backbone,
    tokens: tuple[Stage | None, UserError | None], written: Callable[[Path], object] | None,
) -> tuple[ScanResult, UserError | None]:  # fmt: skip
    """Write the record and then the page. Returns the record, and why the token table is missing.

    Args:
        tokens: where the token table is staged, and why it is missing.

    Raises:
        UserError: if the record cannot be written.
    """
    stage, lacking = tokens
    if stage is not None and not stage.exists:
        lacking = UserError(f"{outputs.folder} was deleted while the scan ran, and the tokens with it.")
    try:
        outputs.publish(texts({RECORD: result.model_dump_json(indent=1)}), stage=stage, more=True)
        # From here on the result is on disk, whatever happens to the drawings.
        if written is not None:
            written(outputs.folder)
        return _draw(outputs, result, shown, seen, batches, backbone), lacking
    except UserError as error:
        if lacking is None:
            raise
        raise UserError(f"{error} Besides, {lacking}") from error


def _verdict(found: VerdictRecord, backbone: Backbone) -> VerdictRecord:
    """Put a warning before the verdict if the model is not trained, or only in part."""
    if not backbone.untrained:
        return found
    return found.model_copy(update={"sentence": f"{backbone.untrained} {found.sentence}"})


def summary(verdict: VerdictRecord) -> str:
    """Format the verdict as two lines for a terminal: the sentence, then kind, strength, agreement and reason."""
    if verdict.undecided:
        kind = "not established"
    else:
        # Agreement on "none" is no evidence by itself.
        agree = verdict.confidence is not None and verdict.kind != "none"
        sure = f"{percent(verdict.confidence)} of resamples agree" if agree else ""
        words = [word for word in (verdict.strength, sure) if word not in ("", "none")]
        kind = verdict.kind + (f" ({', '.join(words)})" if words else "")
    return f"{verdict.sentence}\nVerdict: {kind}. {verdict.reason}"


def _identity(backbone: Backbone, batches: Batches, options: ScanOptions, *, given: bool) -> dict[str, Any] | None:
    """Everything that must be equal for a killed pass to be resumed; None if it cannot be resumed.

    Args:
        given: whether the caller loaded the backbone, so its weights may have changed since.
    """
    images, edits, code = batches.fingerprint, backbone.edits_identity, code_of(backbone.anatomy.tower)
    if images is None or edits is None or code is None:
        return None
    weights = sha256_of_weights(backbone.anatomy.tower) if given else backbone.weights_sha256
    model = [
        backbone.spec,
        weights,
        edits,
        code,
        repr(backbone.layouts(batches.size)),
        str(backbone.dtype),
        str(backbone.device),
        backbone.attention_status(),
    ]
    return {
        "images": images,
        "model": model,
        "options": asdict(options),
        "versions": versions(),
        "sums": [each.name for each in fields(Sums)],
    }


def _run(batches: Batches, measure: Measure, tally: Tally, saved: SavedPass, *, show: bool) -> bool:
    """Feed every batch to the tally. Returns True if the user stopped it; the counts so far are kept."""
    done = len(tally.names)
    try:
        with progress("scanning", batches.planned, unit="images", show=show, done=done) as advance:
            for batch in batches:
                try:
                    found = measure(batch.indices, batch.names, batch.pixels)
                    tally.add(replace(found, content=batch.content))
                except FloatingPointError as error:
                    full = measure.backbone.dtype == torch.float32
                    remedy = "the images or the weights hold NaN or infinite values" if full else "try --precision fp32"
                    raise UserError(f"{error} in {measure.backbone.dtype}; {remedy}.") from error
                except OSError as error:
                    raise UserError(f"cannot keep the norms of the tokens: {error.strerror or error}.") from error
                saved.save(tally, batches)
                advance(len(batch.indices))
    except KeyboardInterrupt:
        saved.save(tally, batches, now=True)
        if show:
            later = "; the same command goes on where it stopped" if saved.kept else ""
            say(f"vitreg: interrupted; writing what was scanned{later} (Ctrl-C again to leave at once).", error=True)
        return True
    return False


def _gather_counts(tally: Tally, readout: Readout, group: Processes) -> list[Chosen]:
    """(image number, name, outliers) of every image of every process, by number."""
    own = list(zip(tally.order.tolist(), tally.names, readout.per_image.tolist(), strict=True))
    return sorted(itertools.chain(*group.gather(own)))


def _watched(backbone: Backbone) -> tuple[Watch | None, list[str]]:
    """The norms over the training of a `run:DIR` model; a note if they were logged but cannot be read."""
    kind, _, name = backbone.spec.partition(":")
    try:
        return (watch_of(Path(name).expanduser()) if kind == "run" else None), []
    except UserError as error:
        return None, [f"The norms over its training are not shown: {error}"]


def _stage_tokens(
    outputs: Outputs | None, tally: Tally, readout: Readout, group: Processes, held: contextlib.ExitStack
) -> tuple[Stage | None, UserError | None]:
    """Stage the token tables of all processes before the record, whose seconds include them; nothing without `outputs`.

    Returns:
        the staged folder, and why the tables are missing.
    """
    if outputs is None:
        return None, None
    stage, failed = None, None
    try:
        stage = held.enter_context(outputs.stage()) if group.first else None
    except UserError as error:
        failed = error
    place = group.gather(stage and stage.path)[0]
    try:
        if place is not None and place.is_dir():
            write_token_table(place, tally, readout, group)
        elif place is not None:  # machines without a shared folder each keep their table
            outputs.publish(lambda own: write_token_table(own, tally, readout, group))
    except UserError as error:
        failed = error
    failed = next((each for each in group.gather(failed) if each is not None), None)
    if stage is not None and failed is not None:
        stage.close()
    return stage, failed


def _draw(
    outputs: Outputs, result: ScanResult, shown: list[Chosen], seen: _Seen, batches: Batches, backbone: Backbone
) -> ScanResult:
    """Draw the maps of the images that are shown, the page and the figures."""
    from vitreg.report import Attempts, draw_scan

    attempts, examples = Attempts(), []
    with outputs.adding() as place:
        with attempts.noting("maps of the images"):
            examples = build_examples(backbone, batches, shown, seen.readout, attention=seen.measure.attention)
        draw_scan(as_written(result), examples, place, attempts)
        return noted(result, place / RECORD, attempts)


def _nothing_read(skipped: Sequence[Skipped], interrupted: bool) -> str:
    if interrupted:
        return "stopped before the first image was scanned; nothing was written."
    if not skipped:
        return "there are no images."
    return f"none of the {len(skipped)} images could be read; the first, {skipped[0].name}: {skipped[0].reason}."
