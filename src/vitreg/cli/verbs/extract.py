"""`vitreg extract`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from vitreg.cli.command import OverImages, check_place, speaks
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.verbs.extract.options import ExtractOptions


@dataclass(frozen=True, kw_only=True)
class Extract(OverImages):
    """The words of `vitreg extract`."""

    out: Path = Path("vitreg-features")
    """Folder for the features of any number of models and sets, one subfolder each."""
    extract: OmitArgPrefixes[ExtractOptions] = field(default_factory=ExtractOptions)
    """Features to store of each image."""

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        super().check()
        check_place(ahead.extract_outputs(self.out))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.extract.verb import extract, summary

        store = extract(self.spec, list(self.images), out=self.out, options=self.extract, quiet=False, **self.loading)
        if speaks():
            say(summary(store))
        return Exit.DONE
