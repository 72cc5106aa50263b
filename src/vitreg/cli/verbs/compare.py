"""`vitreg compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vitreg.cli.command import open_with
from vitreg.console.exits import Exit


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put scans side by side on one page: verdicts, norms along the depth on a shared scale, links to the reports.

    Example: vitreg compare scans/reg0 scans/reg4 --out scans/compare.html
    """

    scans: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="DIR...", help="folders that vitreg scan wrote, 2 to 8", help_behavior_hint=""),
    ]
    out: Path = Path("vitreg-compare.html")
    """The page."""

    def check(self) -> None:
        """Nothing to refuse: the verb loads no model."""

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.compare import compare

        open_with(compare(self.scans, out=self.out))
        return Exit.DONE
