"""`vitreg explore`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import check_place, open_with
from vitreg.cli.photos import PHOTOS, OverPhotos, loading_of, say_left_out
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.verbs.explore.options import ExploreOptions
from vitreg.verbs.look.options import LoadingOptions

if TYPE_CHECKING:
    from vitreg.records.explore import ShownDocument, ShownModel


@dataclass(frozen=True, kw_only=True)
class Explore(OverPhotos):
    """The words of `vitreg explore`."""

    images: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="PHOTO...", help=PHOTOS, help_behavior_hint="(at least one; with --serve none is needed)"),
    ]
    out: Path = Path("vitreg-explore")
    """Folder for the page, or a name that ends with .html for one file that holds everything."""
    serve: bool = False
    """Write nothing: answer on an address of this machine until Ctrl-C, where photos are dropped on the page and measured."""
    port: int = 0
    """Port of that address; a free one for 0."""
    browser: bool = True
    """Open the address in the browser of this desktop."""
    explore: OmitArgPrefixes[ExploreOptions] = field(default_factory=ExploreOptions)
    """What to measure."""
    load: OmitArgPrefixes[LoadingOptions] = field(default_factory=LoadingOptions)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        self.check_photos(self.explore, self.load, needed=not self.serve)
        if self.serve:
            self._check_live()
            return
        if self.port or not self.browser:
            raise UserError(f"{'--port' if self.port else '--no-browser'} belongs to --serve; add it.")
        check_place(ahead.explore_outputs(self.out.expanduser(), self.images, self.load.weights))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        if self.serve:
            return self._serve()
        from vitreg.machine.uncompiled import collector_paused, compiler_left_out

        with compiler_left_out(), collector_paused():
            from vitreg.verbs.explore.verb import explore

            result = explore(
                self.model,
                self.opened("explore"),
                out=self.out,
                options=self.explore,
                measured=_print,
                **loading_of(self.load),
            )
        say_left_out(result.record, len(result.record.photos), "Shows")
        say(result.record.caution)
        assert result.path is not None, "a place was named"
        open_with(result.path)
        return Exit.DONE

    def _check_live(self) -> None:
        if self.out != type(self).out:
            raise UserError("--serve writes nothing, so it takes no --out.")
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port must be from 0 to 65535, not {self.port}.")
        if not all(find_spec(name) for name in ("starlette", "uvicorn")):
            raise UserError('--serve needs starlette and uvicorn: pip install "vitreg[app]".')

    def _serve(self) -> int:
        """Answer until Ctrl-C."""
        from vitreg.machine.uncompiled import collector_paused, compiler_left_out

        with compiler_left_out(), collector_paused():
            from vitreg.verbs.explore.live.serve import open_browser, opened

            loading = loading_of(self.load)
            weights = loading.pop("weights")
            session = opened(
                self.model,
                self.opened("explore"),
                options=self.explore,
                loading=loading,
                weights=weights,
                port=self.port,
            )
        say_left_out(session.record, len(session.record.photos), "Shows")
        say(session.record.caution)
        say("Ctrl-C ends it. Other machines cannot ask it; this address alone opens it.")
        say(f"Open {session.address}")
        if self.browser:
            open_browser(session.ticket())
        session.run()
        return Exit.DONE


def _print(photo: str, model: ShownModel, document: ShownDocument) -> None:
    """Print what a model shows on a photo, as it is measured."""
    say(f"{photo}, {model.name}: {document.sentence}")
