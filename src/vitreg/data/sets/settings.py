"""Settings of data: where the training images lie, and the number of pixels without a class. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["auto", "folder", "shards", "table", "torchvision"]

IGNORE = 255  # what a map of classes has for pixels without a class; at most 255 classes


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The training and validation images of a run."""

    root: str = ""
    """Class folders, shards (shards/{000..009}.tar, URLs too), .json/.csv/.tsv, torchvision:NAME[:FOLDER] or synthetic:scenes."""
    val: str | None = None
    """The validation side; if unset, the one that lies beside the training side (ROOT/train, ROOT/val), if any."""
    kind: Kind = "auto"
    """What root and val are; auto looks at the path."""
    image_key: str | None = None
    """Column or key of the image file in a .csv, .tsv or .json; usual names are recognised."""
    caption_key: str | None = None
    """Column or key of the caption, in the .json members of shards too; usual names are recognised."""
    limit: int | None = None
    """Train on this many images, evenly spread over the set."""
    limit_val: int | None = None
    """Validate on this many images, evenly spread over the set."""
    workers: int | None = None
    """Processes that decode and augment, for each process that trains; as many as there are processors if unset."""
    cache: str | None = None
    """Folder for shards fetched from URLs; ~/.cache/vitreg/shards if unset."""
    download: bool = False
    """Let torchvision download its set."""
