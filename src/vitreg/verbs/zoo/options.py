"""The options of `zoo`: its flags, its manual and the keywords of `vitreg.zoo`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Suppress

from vitreg.errors import UserError
from vitreg.passes.keywords import Size
from vitreg.passes.options import ImageOptions, at_least


@dataclass(frozen=True, kw_only=True)
class ZooOptions(ImageOptions):
    """Scan many models on the same images, and rank them on one board.

    Models are scanned one after another, in memory for one. A model that fails is a row with the reason. Finished scans are
    kept: after Ctrl-C the same command goes on, and several processes on one folder share the work. Writes result.json,
    report.html, board.csv and a scan for each model (runs/) into --out.

    Rows are ranked only where the protocol is equal: images, resolution, fit, precision, detector and version. Models run in
    fp32 unless --precision names another.

    Example: vitreg zoo photos/ -m @dinov2 -m timm:vit_base_patch16_224.dino --size 224
    """

    models: Suppress[tuple[str, ...]] = ()
    """SPECs, groups such as @dinov2, and folders of scans; on the command line -m for each."""
    models_file: Path | None = None
    """A file of models: a SPEC or group a line, or JSON of the form of the public list."""
    records: tuple[Path, ...] = ()
    """Folders of scans made before or elsewhere, or folders of such folders; they stand on the board beside the models."""
    patches: Size | None = None
    """Show every model as many patches, such as 16x16, whatever their size; images are scaled to fit. Excludes --size."""
    limit: int | None = 500
    """Use at most this many images."""
    detector: str = "mixture"
    """What separates outliers from the other tokens; vitreg scan --help lists them."""
    seed: int = 0
    """Seed of the bootstrap over images."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
        if self.patches is not None:
            sides = self.patches if isinstance(self.patches, tuple) else (self.patches, self.patches)
            if self.size is not None:
                raise UserError("--patches and --size both say how large images are; leave one out.")
            if min(sides) < 1:
                raise UserError(f"--patches {'x'.join(map(str, sides))} is no grid; give 16 or 16x16 (rows x columns).")
            object.__setattr__(self, "patches", sides)
