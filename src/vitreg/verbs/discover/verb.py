"""`discover`: boxes of objects without supervision, and their CorLoc beside that of boxes that ignore the image.

Combines the model, LOST or TokenCut, and the true boxes; the paper's Table 3 (right) reports such numbers. The paper does
not publish its bias on the Gram matrix, so every number here comes with its settings.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened, refuse_reloading
from vitreg.console.terminal import say
from vitreg.data import ImageSource, Unreadable
from vitreg.data.boxes.coco import coco_boxes
from vitreg.data.boxes.named import named_set
from vitreg.data.boxes.truth import BoxSet
from vitreg.data.boxes.voc import voc_boxes
from vitreg.discovery.chance import NO_CUT
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes, processes, provenance
from vitreg.passes import ahead
from vitreg.passes.drawing import as_written, noted, place_of_interrupted
from vitreg.passes.findings import refuse_broken_weights
from vitreg.passes.given import Images, source_of
from vitreg.passes.model_entry import model_entry
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.passes.progress import progress
from vitreg.quantities import count
from vitreg.records import ImagesRecord, Skipped
from vitreg.report import Attempts
from vitreg.report.sheets.kept import keep_and_draw
from vitreg.results import DiscoverResult
from vitreg.verbs.discover.judge import Judge, Judged, Verdict
from vitreg.verbs.discover.model import DiscoverModel
from vitreg.verbs.discover.options import DiscoverOptions
from vitreg.verbs.discover.pictures import Gallery
from vitreg.verbs.discover.search import Search, one_blas_thread
from vitreg.verbs.discover.setting import Setting, Sweep, refuse_blind_sweep
from vitreg.verbs.discover.sweep import choose
from vitreg.writing.files import refuse_other_result, results_folder, texts
from vitreg.writing.outputs import RECORD, Outputs


@dataclass(frozen=True, slots=True)
class _Data:
    """The data: a name, the images, and their true boxes if there are any."""

    name: str
    images: ImageSource
    boxes: BoxSet | None = None
    note: str = ""  # on the set


@dataclass(slots=True)
class _Seen:
    """The images searched so far."""

    judged: list[Judged]
    skipped: list[Skipped]
    interrupted: bool = False

    def over(self, group: Processes) -> _Seen:
        """Gather the images of all processes, in order."""
        skipped = sorted(itertools.chain(*group.gather(self.skipped)), key=lambda s: s.name)
        judged = sorted(itertools.chain(*group.gather(self.judged)), key=lambda row: row.index)
        return _Seen(judged, skipped, any(group.gather(self.interrupted)))


@takes(DiscoverOptions, ModelOptions)
def discover(
    model: str | nn.Module | Backbone,
    images: Images,
    *,
    boxes: str | Path | None = None,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    options: DiscoverOptions | None = None,
    quiet: bool = True,
    written: Callable[[Path], object] | None = None,
    **keywords: Any,
) -> DiscoverResult:
    """Find one object in every image, and measure CorLoc.

    Args:
        model: a spec such as "timm:vit_small_patch14_reg4_dinov2", a module, or a loaded backbone.
        images: files, folders, globs, archives, list files; or "voc2007:ROOT", "voc2012:ROOT", "coco20k:ROOT", which
            bring their boxes; or pictures, as a list or a dataset.
        boxes: true boxes: a folder of VOC annotations (.xml) or a COCO instances file (.json).
        out: folder for result.json, boxes.json and pictures/, if there are any; nothing is written without it.
        weights: a checkpoint for the spec.
        options: see `DiscoverOptions`; keywords override them.
        written: called with the folder of the result: `out`, or a folder beside it if `out` keeps a complete result.
        keywords: fields of `DiscoverOptions`, such as method and size, and of `ModelOptions`, such as device and precision.
    Returns:
        the record that result.json holds.
    Raises:
        UserError: for a model that cannot be loaded, images or boxes that cannot be read, boxes outside their image, or
            a sweep without boxes.
    """
    options, load_options = split(DiscoverOptions, options, keywords, "discover")
    refuse_reloading(model, weights, load_options)
    ahead.refuse_absent_inputs(files=[weights])
    started = datetime.now(UTC)
    data = _opened(images, boxes, options.hard)
    refuse_blind_sweep(*options.chosen(), boxes=data.boxes is not None)
    with results_folder(out) as folder, processes() as group, one_blas_thread():
        outputs = None if folder is None else ahead.discover_outputs(folder, images, boxes, weights)
        if outputs is not None and group.first:
            outputs.check()
        backbone = opened(model, weights, load_options, size=options.size)
        if folder is not None:
            own = {"model": backbone.spec, "images": data.name}
            refuse_other_result(folder, own, lambda r: {"model": r["model"]["spec"], "images": r["protocol"]["images"]})
        refuse_broken_weights(backbone, "boxes of")
        gallery = Gallery(options.pictures, options.steps if folder else 0)
        result, seen, chosen = _look(data, backbone, options, gallery, group, started, show=group.first and not quiet)
        if outputs is not None and group.first:
            place = place_of_interrupted(outputs) if seen.interrupted else outputs
            result = _write(place, result, seen.judged, gallery, chosen)
            if written is not None:
                written(place.folder)
    return result


def _look(
    data: _Data, backbone: Backbone, options: DiscoverOptions, gallery: Gallery, group: Processes, started: datetime,
    *, show: bool,
) -> tuple[DiscoverResult, _Seen, Setting]:  # fmt: skip
    """Find boxes in all images and judge them. Returns the record, the results per image, and the setting.

    Raises:
        UserError: if no image could be read.
    """
    setting, grid = options.chosen()
    looking = DiscoverModel(backbone, options.size)
    chosen, how = _chosen(setting, data.images, looking)
    search, judge = Search([chosen] if grid is None else grid.settings(chosen, backbone.depth)), Judge(data.boxes)
    seen = _run(data.images, looking, search, judge, gallery, group, options.limit, show=show).over(group)
    gallery.merge(group)
    if not seen.judged:
        raise UserError(_nothing(seen.skipped, seen.interrupted))
    length, limit = data.images.length, options.limit
    result = _record(
        seen,
        judge.verdict(seen.judged, search.settings),
        chosen,
        {"images": data.name, **how, **looking.protocol(), **search.protocol(chosen), **judge.protocol()},
        [*([data.note] if data.note else []), *data.images.notes],
        backbone,
        length if limit is None else min(length or limit, limit),
        group,
        started,
    )
    return result.with_boxes([*itertools.chain.from_iterable(map(_rows, seen.judged))], gallery.pictures), seen, chosen


def _rows(row: Judged) -> Iterator[dict[str, object]]:
    """Yield a row for each box of an image, or one that says why there is none."""
    height, width = row.size
    about = {"image": row.name, "width": width, "height": height}
    for (x0, y0, x1, y1), score in zip(row.boxes, row.scores, strict=True):
        yield about | {
            "x0": x0,
            "y0": y0,
            "x1": x1,
            "y1": y1,
            "score": score,
            "by_chance": row.by_chance,
            "nothing": "",
        }
    if not row.boxes:
        none = dict.fromkeys(("x0", "y0", "x1", "y1", "score", "by_chance"))
        yield {**about, **none, "nothing": row.nothing}


def _record(
    seen: _Seen, verdict: Verdict, chosen: Setting, protocol: dict[str, object], notes: Sequence[str], backbone: Backbone,
    planned: int | None, group: Processes, started: datetime,
) -> DiscoverResult:  # fmt: skip
    """Build the record: boxes, model, setting and machine."""
    return DiscoverResult(
        model=model_entry(backbone),
        images=ImagesRecord(seen=len(seen.judged), skipped=seen.skipped, interrupted=seen.interrupted, planned=planned),
        found=sum(len(row.boxes) for row in seen.judged),
        corloc=verdict.corloc,
        controls=verdict.controls,
        without_boxes=verdict.without_boxes,
        without_cut=verdict.without_box.get(NO_CUT, 0),
        without_box=verdict.without_box,
        by_chance=verdict.by_chance,
        setting=chosen.record(),
        protocol=protocol,
        sweep=verdict.sweep,
        notes=[*notes, *verdict.notes],
        provenance=provenance(
            started=started,
            device=backbone.device,
            precision=str(backbone.dtype).removeprefix("torch."),
            choice=backbone.precision_choice,
            processes=group.world,
        ),
    )


def _chosen(setting: Setting, source: ImageSource, looking: DiscoverModel) -> tuple[Setting, dict[str, object]]:
    """Choose the open fields of a setting on the images. Returns the setting, and how it was chosen if it was open."""
    depth = looking.backbone.depth
    if not setting.open:
        return setting.resolved(depth), {}
    settings = Sweep().settings(setting, depth)
    chosen, count = choose(source, looking, settings)
    rule = f"largest mean eigengap of {len(settings)} settings on the first {count} images, no label looked at"
    return chosen, {"setting chosen by": rule}


def _opened(images: Images, boxes: str | Path | None, hard: bool) -> _Data:
    """Open the images and their boxes."""
    paths = ahead.paths_of(images)
    named = named_set(paths[0], hard=hard) if len(paths) == 1 else None
    if named is not None:
        if boxes is not None:
            raise UserError(f"{paths[0]} brings its own boxes; leave --boxes out.")
        return _Data(named.name, ImageSource(named.images), named.boxes, named.note)
    source = source_of(images, "discover")
    name = "pictures" if not paths else paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    if boxes is None:
        return _Data(name, source)
    truth = _read_boxes(Path(boxes).expanduser(), hard)
    if source.length is not None and not any(truth.find(item.name) for item in source.walk()):
        raise UserError(
            f"no image has boxes in '{boxes}': the first image is '{source[0].name}', an annotation is for "
            f"'{truth.example()}'."
        )
    return _Data(name, source, truth)


def _read_boxes(path: Path, hard: bool) -> BoxSet:
    if path.is_dir():
        inside = path / "Annotations"
        return voc_boxes(inside if inside.is_dir() else path, hard=hard)
    if path.suffix.lower() == ".xml":
        raise UserError(f"'{path}' is the annotation of one image; name the folder it lies in.")
    return coco_boxes(path)


def _run(
    source: ImageSource, looking: DiscoverModel, search: Search, judge: Judge, gallery: Gallery, group: Processes,
    limit: int | None, *, show: bool,
) -> _Seen:  # fmt: skip
    """Search this process's share of the images, one by one, until the user stops it."""
    seen = _Seen([], [])
    planned = source.length if limit is None else min(source.length or limit, limit)
    share = None if planned is None else -(-planned // group.world)
    try:
        with progress("looking for objects", share, unit="images", show=show) as advance:
            for item in source.walk(group.rank, group.world):
                if limit is not None and item.index >= limit:
                    break
                try:
                    photograph = item.reduce(looking.prepare)
                    true = judge.boxes_of(item.name, photograph.original, photograph.orientation)
                except Unreadable as error:
                    seen.skipped.append(Skipped(name=item.name, reason=error.reason))
                else:
                    features, grid = looking.features(photograph, search.wanted)
                    found = search(features, grid, photograph, looking.patch)
                    row = judge(item.index, item.name, photograph, found, true)
                    gallery.add(row, photograph, found[0], grid, looking.patch)
                    seen.judged.append(row)
                advance(1)
    except KeyboardInterrupt:
        if show:
            say(
                "vitreg: interrupted; writing what was found; the same command begins anew (Ctrl-C again to leave at once).",
                error=True,
            )
        seen.interrupted = True
    return seen


def _write(
    outputs: Outputs, result: DiscoverResult, judged: Sequence[Judged], gallery: Gallery, chosen: Setting
) -> DiscoverResult:
    """Write the record and the boxes, then the pictures."""
    boxes = json.dumps(coco_document(judged, result), ensure_ascii=False)
    outputs.publish(texts({"boxes.json": boxes, RECORD: result.model_dump_json(indent=1)}), more=True)
    attempts, sheets = Attempts(), []
    with outputs.adding() as place:
        with attempts.noting("pictures"):
            sheets = list(gallery.sheets(as_written(result), chosen))
        keep_and_draw(sheets, place / "pictures", "sheets.npz", attempts)
        return noted(result, place / RECORD, attempts)


def coco_document(judged: Sequence[Judged], result: DiscoverResult) -> dict[str, Any]:
    """Return the boxes in COCO's instances format: one category, boxes as x, y, width, height, and a score."""
    annotations = [
        {"image_id": row.index + 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
         "iscrowd": 0, "score": score}
        for row in judged
        for (x0, y0, x1, y1), score in zip(row.boxes, row.scores, strict=True)
    ]  # fmt: skip
    return {
        "info": {"description": f"found by vitreg discover with {result.model.spec}", "setting": result.setting},
        "images": [
            {"id": row.index + 1, "file_name": row.name, "height": row.size[0], "width": row.size[1]} for row in judged
        ],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
    }


def summary(result: DiscoverResult) -> str:
    """Format the numbers, the controls and the protocol as lines for a terminal."""
    images = result.images
    lines = []
    if images.interrupted:
        lines.append(f"Stopped after {images.seen}{f' of {images.planned}' if images.planned else ''} images.")
    if images.skipped:
        lines.append(
            f"{count(len(images.skipped), 'image was', 'images were')} left out (listed in result.json); looked at {images.seen}."
        )
    lines.append("setting: " + ", ".join(f"{key} {value}" for key, value in result.setting.items()))
    if result.corloc is None:
        lines.append(
            f"{count(result.found, 'box', 'boxes')} in {count(images.seen, 'image')}; name true boxes with --boxes to see how many fit."
        )
    else:
        found = result.corloc
        interval = "" if found.low is None else f" (95 % interval {found.low:.1f} to {found.high:.1f})"
        lines.append(f"CorLoc {found.value:.1f} %{interval} on {found.images} images")
        lines += [f"  control: {name}  {value:.1f} %" for name, value in result.controls.items()]
    if result.sweep is not None:
        lines += _sweep_lines(result)
    lines.append("protocol: " + ", ".join(f"{key}: {value}" for key, value in result.protocol.items()))
    choice = result.provenance.precision_choice
    lines += [choice.sentence] if choice else []
    return "\n".join([*lines, *result.model.notes, *result.notes, *(each.sentence for each in result.undrawn)])


def _sweep_lines(result: DiscoverResult) -> list[str]:
    assert result.sweep is not None
    sweep, shown = result.sweep, 12
    table = sweep.table
    rows = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in table.rows]
    marked = [row for row in rows[shown:] if row[-1]]
    picked = [table.columns, *rows[:shown], *marked]
    widths = [max(len(row[i]) for row in picked) for i in range(len(table.columns))]
    lines = [sweep.warning, *("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in picked)]
    if len(rows) > shown:
        lines.append(f"  ... {len(rows)} settings in all, in result.json; below the {shown} best only marked ones.")
    if sweep.unlabelled is not None:
        lines.append(f"Chosen by the largest mean eigengap, without labels: CorLoc {sweep.unlabelled:.1f} %.")
    if sweep.halves is not None:
        lines.append(f"Chosen on one half of the images and judged on the other: CorLoc {sweep.halves:.1f} %.")
    return lines


def _nothing(skipped: Sequence[Skipped], interrupted: bool) -> str:
    if interrupted:
        return "stopped before the first image was looked at; nothing was written."
    if not skipped:
        return "there are no images."
    return f"none of the {len(skipped)} images could be used; the first, {skipped[0].name}: {skipped[0].reason}."
