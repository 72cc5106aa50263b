"""Settings of `causal`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitreg.verbs.eval.settings.task import TaskSettings


@dataclass(frozen=True, kw_only=True)
class CausalSettings(TaskSettings):
    """Change the sinks of each image while the model runs, and as many random patches, and compare what that does.

    Sinks are the outliers of the scan, changed at the block where they appear or where later blocks read them; of a model
    without outliers, the most attended patch. Their tokens or values are set to zero, the mean, another image's, noise;
    they are hidden from the class token, from patches, from one head; the attention on them goes to another patch or is
    spread; registers are exchanged between images. The model uses its sinks where the effect is larger than that of random
    patches, with the whole 95 % interval of the difference (paired bootstrap over images). Half of the images, 500 at most
    unless --limit says more, only give means and donors. DATA is any images: a folder, files, an archive.

    Example: vitreg eval timm:vit_small_patch14_dinov2.lvd142m causal photos/
    """

    title = "What the sinks cause"
    measured = "With the sinks changed ({name}), the output moves by {value}, as 1 - cosine"

    labels: Path | None = None
    """Classes for the model's own classifier, as `vitreg repairs` takes them; the sinks help where accuracy falls by more
    than with random patches."""
    twin: str | None = None
    """Another model, such as the same trained with registers: whether sinks are worth having shows beside one without."""

    def check(self) -> None:
        """Raise UserError for labels that do not exist."""
        from vitreg.passes.ahead import refuse_absent_truth

        refuse_absent_truth(labels=self.labels)
