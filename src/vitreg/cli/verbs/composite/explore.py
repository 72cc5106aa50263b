"""`vitreg explore`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from vitreg.cli.command import check_place, open_with
from vitreg.cli.photos import OverPhotos, loading_of, say_left_out
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.verbs.explore.options import ExploreOptions
from vitreg.verbs.look.options import LoadingOptions

if TYPE_CHECKING:
    from vitreg.records.explore import ShownDocument, ShownModel


@dataclass(frozen=True, kw_only=True)
class Explore(OverPhotos):
    """The words of `vitreg explore`."""

    out: Path = Path("vitreg-explore")
    """Folder for the page, or a name that ends with .html for one file that holds everything."""
    explore: OmitArgPrefixes[ExploreOptions] = field(default_factory=ExploreOptions)
    """What to measure."""
    load: OmitArgPrefixes[LoadingOptions] = field(default_factory=LoadingOptions)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        self.check_photos(self.explore, self.load)
        check_place(ahead.explore_outputs(self.out.expanduser(), self.images, self.load.weights))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.machine.uncompiled import collector_paused, compiler_left_out

        with compiler_left_out(), collector_paused():
            from vitreg.verbs.explore.verb import explore

            result = explore(
                self.model, self.opened(), out=self.out, options=self.explore, measured=_print, **loading_of(self.load)
            )
        say_left_out(result.record, len(result.record.photos), "Shows")
        say(result.record.caution)
        assert result.path is not None, "a place was named"
        open_with(result.path)
        return Exit.DONE


def _print(photo: str, model: ShownModel, document: ShownDocument) -> None:
    """Print what a model shows on a photo, as it is measured."""
    say(f"{photo}, {model.name}: {document.sentence}")
