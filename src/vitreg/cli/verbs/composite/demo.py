"""`vitreg demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from vitreg.cli.command import check_place, open_with
from vitreg.console.exits import Exit
from vitreg.verbs.demo.options import DemoOptions


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The words of `vitreg demo`."""

    out: Path = Path("demo-report")
    """Folder for the page of acts and the reports."""
    demo: OmitArgPrefixes[DemoOptions] = field(default_factory=DemoOptions)
    """What is planted."""

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        check_place(*ahead.demo_outputs(self.out))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.demo.verb import demo

        demo(self.out, options=self.demo)
        open_with(self.out / "index.html")
        return Exit.DONE
