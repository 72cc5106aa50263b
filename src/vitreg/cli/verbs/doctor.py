"""`vitreg doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps

from vitreg.cli.command import OfModel
from vitreg.console.exits import Exit
from vitreg.console.terminal import say


@dataclass(frozen=True, kw_only=True)
class Doctor(OfModel):
    """Check a model without images: token layout, registers, position table, weight decay, slicing.

    Exit code 0, or 5 if a finding is a problem (warnings and notes do not count), 2 for a mistake.

    Example: vitreg doctor timm:vit_medium_patch16_reg4_gap_256
    """

    json: bool = False
    """Print the findings as JSON (schema vitreg.doctor/1) for a program to read."""

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.backbones import load
        from vitreg.verbs.doctor import doctor, record, render

        backbone = load(self.spec, **self.loading)
        result = record(backbone, doctor(backbone))
        if self.json:
            say(
                dumps(result.model_dump(mode="json", by_alias=True), indent=1)
            )  # ASCII, so names cannot send control characters to the terminal
        else:
            say(render(result.findings))
        return Exit.PROBLEM_FOUND if result.problem else Exit.DONE
