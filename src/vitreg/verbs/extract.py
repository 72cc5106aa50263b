"""`extract_features`: the features of any images into a folder, as shards that `open_store` reads and, if wanted, a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.data.sets.example import Example, Portion, TrainingSet
from vitreg.data.sources.images import ImageSource
from vitreg.data.sources.parts import Held
from vitreg.data.views.transforms import Policy
from vitreg.errors import UserError
from vitreg.features.extract import Wanted, extract
from vitreg.features.fields import KINDS
from vitreg.features.store import FeatureStore
from vitreg.features.table import write_table
from vitreg.machine.runtime import processes
from vitreg.passes import ahead
from vitreg.passes.bench import Bench
from vitreg.passes.findings import refuse_broken_weights
from vitreg.writing.files import results_folder
from vitreg.writing.outputs import Outputs

TABLE = "features.parquet"
CLS = Wanted()
"""The class token of the last block, after the final norm."""


class PictureSet:
    """Any images as a set without classes.

    Raises:
        UserError: for paths that do not exist or hold no image, and for what can only be read from front to back.
    """

    classes, labels = None, None

    def __init__(self, paths: Sequence[str | Path], min_side: int = 1) -> None:
        for path in paths:
            source = ImageSource([path])
            if source.length is None or (source.length and isinstance(source[0].locator, Held)):
                raise UserError(
                    f"{path} can be read from front to back only, so what was interrupted could not go on; unpack it, or "
                    "give a .zip or an uncompressed .tar."
                )
        self._source, self._min_side = ImageSource(paths), min_side
        self.notes = self._source.notes

    def __len__(self) -> int:
        """Count the images, unreadable ones included."""
        return len(self._source)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        return Example(self._source[index].open(self._min_side))

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return self._source[index].name


def extract_features(
    model: str | nn.Module | Backbone,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    wanted: Wanted = CLS,
    table: bool = False,
    weights: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Policy = "resize",
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    quiet: bool = True,
    **load_options: Any,
) -> FeatureStore:
    """Keep features of images on disk, for `vitreg eval --features` and for other programs.

    Args:
        model: a spec such as "timm:vit_small_patch14_reg4_dinov2", a module, or a loaded backbone.
        images: files, folders, globs, list files, zip or uncompressed tar archives.
        out: folder that may hold the features of many models and sets; these go to a folder in it, named by what they
            follow from, and are found there again.
        wanted: which features.
        table: also write the pooled ones as a Parquet table, features.parquet beside the shards.
        weights: a checkpoint for the spec.
        size: of the images in pixels, one number or (height, width); the model's own if None.
        limit: use at most this many images, spread evenly.
        workers: processes that decode.
        load_options: passed to `vitreg.load`.
    Raises:
        UserError: as for `vitreg.features.extract.extract`, and for a table of nothing pooled.
    """
    ahead.refuse_no_features({kind: getattr(wanted, kind) for kind in KINDS}, table=table)
    paths = [images] if isinstance(images, str | Path) else list(images)
    ahead.refuse_absent_inputs(paths, files=[weights])
    with results_folder(out) as folder, processes() as group:
        assert folder is not None  # `out` was given
        backbone = opened(model, weights, load_options, size=size)
        refuse_broken_weights(backbone, "features of")
        data: TrainingSet = PictureSet(paths, min(backbone.anatomy.patch))
        if limit is not None and limit < len(data):
            data = Portion(data, limit)
        bench = Bench(
            backbone=backbone,
            data=" ".join(map(str, paths)),
            features=folder,
            group=group,
            size=(size, size) if isinstance(size, int) else size,
            policy=fit,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            quiet=quiet,
        )
        try:
            store = extract(bench, data, wanted)
        except KeyboardInterrupt:
            kept = f"what is finished is kept in {folder}, and the same command goes on from there"
            raise KeyboardInterrupt(kept) from None
        if table and group.first:
            Outputs(store.folder, "extract", [TABLE]).add(lambda place: write_table(store, place / TABLE))
    return store


def describe(store: FeatureStore) -> str:
    """Say what is in a store, in lines for a terminal; the last is its folder."""
    lines = [f"{store.images} images"]
    lines += [
        f"  {name:24}{' x '.join(map(str, field.shape)):16}{field.dtype}" for name, field in store.record.fields.items()
    ]
    if store.record.precision_choice is not None:
        lines.append(store.record.precision_choice.sentence)
    lines += store.notes
    if store.skipped:
        named = ", ".join(f"{skipped.name} ({skipped.reason})" for skipped in store.skipped[:3])
        rest = f" and {len(store.skipped) - 3} more" if len(store.skipped) > 3 else ""
        lines.append(f"{len(store.skipped)} images could not be read, as the shards' JSON files say: {named}{rest}")
    return "\n".join([*lines, str(store.folder)])
