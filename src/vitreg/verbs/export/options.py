"""The options of `export`: its flags, its manual and the keywords of `vitreg.export`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitreg.errors import UserError, unknown
from vitreg.passes.keywords import Fitted, Size
from vitreg.passes.options import SourceOptions, check_size
from vitreg.specs import EXPORTS


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Fitted):
    """Write a model, repaired or not, for timm, transformers or ONNX, loaded back there and compared before it is kept.

    Example: vitreg export fixed:vitreg-fixed --to onnx --out fixed.onnx
    """

    to: Literal["timm", "hf", "transformers", "safetensors", "onnx"]
    """timm: for timm.create_model("local-dir:PATH", pretrained=True); hf (or transformers): for from_pretrained; or one
    file. --format means the same."""
    size: Size | None = None
    """Image size of an ONNX model, 518 or 384x512 (height x width); the model's own if unset."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        if isinstance(self.to, str) and self.to not in EXPORTS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise unknown("format", self.to, EXPORTS)
        super().__post_init__()
        check_size(self.size)
        if self.size is not None and self.to != "onnx":
            raise UserError(f"--size is for onnx, which has one image size; a model of {self.to} takes any.")

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True, kw_only=True)
class ExportedOptions(SourceOptions):
    """Which weights the model has. It is exported in float32, and compared on the CPU."""

    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""
