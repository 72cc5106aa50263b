"""`vitreg export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import SPEC_HELP, check_place
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.verbs.export.options import ExportedOptions, ExportOptions


@dataclass(frozen=True, kw_only=True)
class Export:
    """The words of `vitreg export`."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    export: OmitArgPrefixes[ExportOptions]
    """The format."""
    out: Path
    """Folder (timm, hf) or file (safetensors, onnx). Only an earlier export there is replaced."""
    model: OmitArgPrefixes[ExportedOptions] = field(default_factory=ExportedOptions)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        ahead.refuse_no_model(self.spec)
        self.model.check(self.spec, self.model.weights)
        check_place(ahead.export_outputs(self.out, self.export.to))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.export.verb import export, summary

        result = export(
            self.spec, self.export.to, self.out, size=self.export.size, weights=self.model.weights, **self.model.given()
        )
        for note in result.notes:
            say(note)
        say(summary(result, self.export.to))
        return Exit.DONE
