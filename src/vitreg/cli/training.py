"""The verbs around training: train, curves and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vitreg.cli.options import check_place, open_with, parse_size
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.specs import refuse_no_run
from vitreg.writing.files import run_folder


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ViT with registers: DeiT-III, CLIP, DINOv2, DINO or MAE. `vitreg train` alone lists the presets.

    Example: vitreg train deit3-imagenette-cpu --data.root imagenette-128 --model.registers 4 --out runs/deit3-reg4

    Every setting: vitreg train PRESET --help
    """


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Draw what training runs wrote down, side by side: loss, evaluations, and when artifacts appeared (Fig. 4b).

    Writes report.html, curves.png and curves.json. Works while a run trains, too.

    Example: vitreg curves runs/deit3-reg0 runs/deit3-reg4 --out curves
    """

    runs: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="RUN...",
            help="folders of training runs, with or without run: before them",
            help_behavior_hint="(at least one)",
        ),
    ]
    out: Path | None = None
    """Folder for the results; that of the run if it is one, vitreg-curves if there are several."""

    def check(self) -> None:
        """Refuse nothing beforehand: the verb needs no model."""

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.training.journal import unreadable_lines
        from vitreg.verbs.curves import curves

        if not self.runs:
            raise UserError("no runs named; give their folders, for example: vitreg curves runs/reg0 runs/reg4")
        out = self.out or (run_folder(self.runs[0]) if len(self.runs) == 1 else Path("vitreg-curves"))
        record = curves(self.runs, out=out)
        for run in record.runs:
            say(f"{run.name}: {run.watched.sentence if run.watched else 'The norms were not watched.'}")
            if run.unreadable:
                say(f"{run.name}: {unreadable_lines(run.unreadable)}")
        for each in record.undrawn:
            say(each.sentence)
        open_with(out / "report.html")
        return Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained run as a model of timm, transformers or ONNX, loaded back there and compared before it is kept.

    Example: vitreg export runs/deit3-reg4 --to timm --out deit3-reg4-timm
    """

    run: Annotated[Positional[Path], arg(metavar="RUN", help="folder of the run, with or without run: before it")]
    to: Literal["timm", "hf", "safetensors", "onnx"]
    """timm: for timm.create_model("local-dir:PATH", pretrained=True); hf: for from_pretrained; or one file."""
    out: Path
    """Folder (timm, hf) or file (safetensors, onnx). An earlier export there is replaced, anything else is not."""
    size: str | None = None
    """Image size of an ONNX model, 518 or 384x512 (height x width); the run's own if unset."""

    def check(self) -> None:
        """Refuse what no model is needed for."""
        if parse_size(self.size) is not None and self.to != "onnx":
            raise UserError(f"--size is for onnx, which has one image size; a model of {self.to} takes any.")
        refuse_no_run(run_folder(self.run))
        check_place(ahead.export_outputs(self.out, self.to))

    def __call__(self) -> int:
        """Carry it out. Returns the exit code."""
        from vitreg.verbs.export.verb import describe, export

        result = export(self.run, self.to, self.out, size=parse_size(self.size))
        for note in result.notes:
            say(note)
        say(describe(result, self.to))
        return Exit.DONE
