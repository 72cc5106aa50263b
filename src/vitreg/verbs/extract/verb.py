"""`extract`: stores features of any images as shards that `open_store` reads and, if requested, a table."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.data.sets.example import Example, Portion, TrainingSet
from vitreg.data.sources.decode import Unreadable
from vitreg.data.sources.images import ImageSource
from vitreg.data.sources.parts import Held
from vitreg.errors import UserError
from vitreg.features.extract import extract as keep
from vitreg.features.fields import Wanted
from vitreg.features.store import FeatureStore
from vitreg.features.table import write_table
from vitreg.machine.runtime import processes
from vitreg.passes import ahead
from vitreg.passes.ahead import paths_of
from vitreg.passes.bench import Bench
from vitreg.passes.findings import refuse_broken_weights
from vitreg.passes.given import Images, source_of
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.verbs.extract.options import ExtractOptions
from vitreg.writing.files import results_folder
from vitreg.writing.outputs import Outputs

TABLE = "features.parquet"


class UnlabelledImages:
    """Any images as a set without classes.

    Raises:
        UserError: for paths that do not exist or hold no image, and for files readable from front to back only.
    """

    classes, labels = None, None

    def __init__(self, images: Images, min_side: int = 1) -> None:
        self._source, self._min_side = source_of(images, "extract"), min_side
        self.notes = self._source.notes
        self._hashes: dict[int, str] = {}
        for path in paths_of(images):
            source = ImageSource([path])
            if source.length is None or (source.length and isinstance(source[0].locator, Held)):
                raise UserError(
                    f"{path} can be read from front to back only, so what was interrupted could not go on; unpack it, or "
                    "give a .zip or an uncompressed .tar."
                )

    def __len__(self) -> int:
        """Count the images, unreadable ones included."""
        return len(self._source)

    def read(self, index: int) -> Example:
        """Decode one image. Raises Unreadable."""
        return Example(self._source[index].open(self._min_side))

    def name(self, index: int) -> str:
        """Return the path of an image; a picture in memory also gets a hash of its pixels, which enters the features' key."""
        item = self._source[index]
        return f"{item.name} {self._pixels(index)}" if self._source.in_memory else item.name

    def _pixels(self, index: int) -> str:
        if index not in self._hashes:
            try:
                image = self._source[index].open()
            except Unreadable as error:
                return error.reason
            self._hashes[index] = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]
        return self._hashes[index]


@takes(ExtractOptions, ModelOptions)
def extract(
    model: str | nn.Module | Backbone,
    images: Images,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    options: ExtractOptions | None = None,
    quiet: bool = True,
    **keywords: Any,
) -> FeatureStore:
    """Store features of images on disk, for `vitreg eval --features` and for other programs.

    Args:
        model: a spec such as "timm:vit_small_patch14_reg4_dinov2", a module, or a loaded backbone.
        images: files, folders, globs, list files, zip or uncompressed tar archives; or pictures, as a list or a dataset.
        out: folder for the features of any number of models and sets; these go to a subfolder named by their key, and
            are reused from there.
        weights: a checkpoint for the spec.
        options: see `ExtractOptions`; keywords override them.
        keywords: fields of `ExtractOptions`, such as cls and size, and of `ModelOptions`, such as device and precision.
    Raises:
        UserError: as `vitreg.features.extract.extract`, and for a table without pooled features.
    """
    options, load_options = split(ExtractOptions, options, keywords, "extract")
    ahead.refuse_absent_inputs(images, files=[weights])
    with results_folder(out) as folder, processes() as group:
        assert folder is not None  # `out` was given
        backbone = opened(model, weights, load_options, size=options.pixels)
        refuse_broken_weights(backbone, "features of")
        data: TrainingSet = UnlabelledImages(images, min(backbone.anatomy.patch))
        if options.limit is not None and options.limit < len(data):
            data = Portion(data, options.limit)
        bench = Bench(
            backbone=backbone,
            data=" ".join(paths_of(images)) or "pictures",
            features=folder,
            group=group,
            size=options.pixels,
            policy=options.fit,
            batch_size=options.batch_size,
            workers=options.workers,
            limit=options.limit,
            quiet=quiet,
        )
        try:
            store = keep(bench, data, options.wanted())
        except KeyboardInterrupt:
            kept = f"what is finished is kept in {folder}, and the same command goes on from there"
            raise KeyboardInterrupt(kept) from None
        if options.table and group.first:
            with Outputs(store.folder, "extract", [TABLE]).adding() as place:
                write_table(store, place / TABLE)
    return store


def extract_features(
    model: str | nn.Module | Backbone,
    images: Images,
    *,
    out: str | Path,
    wanted: Wanted | None = None,
    **keywords: Any,
) -> FeatureStore:
    """Do the same as `extract`, under its name in 0.1, with `wanted` as one value."""
    kept = {} if wanted is None else {each.name: getattr(wanted, each.name) for each in fields(wanted)}
    return extract(model, images, out=out, **kept, **keywords)


def summary(store: FeatureStore) -> str:
    """Format the contents of a store as lines for a terminal; the last is its folder."""
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
