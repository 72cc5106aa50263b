"""`vitreg export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import check_place
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.passes import ahead
from vitreg.specs import refuse_no_run
from vitreg.verbs.export.options import ExportOptions
from vitreg.writing.files import run_folder


@dataclass(frozen=True, kw_only=True)
class Export:
    """The words of `vitreg export`."""

    run: Annotated[Positional[Path], arg(metavar="RUN", help="folder of the run, with or without run: before it")]
    export: OmitArgPrefixes[ExportOptions]
    """The format."""
    out: Path
    """Folder (timm, hf) or file (safetensors, onnx). Only an earlier export there is replaced."""

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        refuse_no_run(run_folder(self.run))
        check_place(ahead.export_outputs(self.out, self.export.to))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.export.verb import export, summary

        result = export(self.run, self.export.to, self.out, size=self.export.pixels)
        for note in result.notes:
            say(note)
        say(summary(result, self.export.to))
        return Exit.DONE
