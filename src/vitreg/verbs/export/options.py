"""The options of `export`: its flags, its manual and the keywords of `vitreg.export`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitreg.errors import UserError, unknown
from vitreg.passes.ahead import SUFFIXES
from vitreg.passes.keywords import Fitted, Size
from vitreg.passes.options import check_size


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Fitted):
    """Write a trained run as a model of timm, transformers or ONNX, loaded back there and compared before it is kept.

    Example: vitreg export runs/deit3-reg4 --to timm --out deit3-reg4-timm
    """

    to: Literal["timm", "hf", "safetensors", "onnx"]
    """timm: for timm.create_model("local-dir:PATH", pretrained=True); hf: for from_pretrained; or one file."""
    size: Size | None = None
    """Image size of an ONNX model, 518 or 384x512 (height x width); the run's own if unset."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        if self.to not in SUFFIXES:
            raise unknown("format", self.to, SUFFIXES)
        check_size(self.size)
        if self.size is not None and self.to != "onnx":
            raise UserError(f"--size is for onnx, which has one image size; a model of {self.to} takes any.")

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size
