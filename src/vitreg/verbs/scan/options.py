"""The options of `scan`: its flags, its manual and the keywords of `vitreg.scan`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Suppress

from vitreg.passes.options import DETECTORS, ImageOptions, at_least


@dataclass(frozen=True, kw_only=True)
class ScanOptions(ImageOptions):
    """Look for artifacts in the feature maps of any Vision Transformer.

    One pass over the images, constant memory. Writes result.json, report.html and figures/ into --out and prints the
    verdict. Exit code 0, or 3 with --fail-above, 2 for a mistake, 130 after Ctrl-C (what was scanned is kept).

    Example: vitreg scan timm:vit_small_patch14_reg4_dinov2.lvd142m photos/ --out report

    Under torchrun every process takes its share: torchrun --nproc-per-node 2 -m vitreg scan ...
    """

    detector: Annotated[str, DETECTORS] = "mixture"
    """What separates outliers from the other tokens."""
    tokens: bool = False
    """Also write tokens.parquet, a row for every token of every layer."""
    examples: int = 8
    """Images shown on the page: with most outliers, with fewest, and a quarter drawn by name."""
    seed: int = 0
    """Seed of the bootstrap over images."""
    power: bool = True
    """For the verdict "none", also say what these images could have shown; takes about a second."""
    intervals: bool = False
    """Also give 95 % intervals over images: of the last block's outliers, of the first block with some, of registers; takes seconds."""
    resamples: Suppress[int | None] = None
    """How often the images are drawn again to say how sure the verdict is: 100 times if unset. Looks of a training draw fewer."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
        at_least(0, "examples", self.examples)
        if self.resamples is not None:
            at_least(1, "resamples", self.resamples)
        from vitreg.analysis.outliers import detector as detector_named

        detector_named(self.detector)
        object.__setattr__(self, "size", self.pixels)
