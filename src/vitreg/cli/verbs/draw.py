"""The command line of `draw`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vitreg.cli.command import open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Redraw pages, sheets and charts from the records of a folder. No model, no images, no torch.

    DIR is a folder that scan, compare, maps, discover, eval, repairs, curves, train, zoo, reproduce, lab or explore wrote. Numbers
    stay as they are.

    Example: vitreg draw scans/reg4
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR", help="a folder that another verb wrote")]
    out: Path | None = None
    """Another folder for the drawings, or a name that ends with .html for the page of explore; DIR itself if unset."""

    def check(self) -> None:
        """Nothing to refuse: the verb loads no model."""

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.draw import draw

        drawn = draw(self.folder, out=self.out)
        for note in drawn.notes:
            say(note)
        for path in drawn.paths[1:]:
            say(path)
        open_with(drawn.paths[0])
        return Exit.DONE
