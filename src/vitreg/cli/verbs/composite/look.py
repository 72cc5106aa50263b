"""`vitreg look`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from vitreg.cli.command import open_with
from vitreg.cli.photos import OverPhotos, loading_of, say_left_out
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.verbs.look.options import LoadingOptions, LookOptions

if TYPE_CHECKING:
    from vitreg.records.look import PhotoLook
    from vitreg.verbs.look.verb import Look as Result


@dataclass(frozen=True, kw_only=True)
class Look(OverPhotos):
    """The words of `vitreg look`."""

    out: Path = Path()
    """Folder for the pictures, or a name that ends with .png; nothing is replaced, a free name is taken."""
    show: bool = True
    """Show the picture if the terminal says it can."""
    json: bool = False
    """Print one JSON object instead."""
    look: OmitArgPrefixes[LookOptions] = field(default_factory=LookOptions)
    """How to look."""
    load: OmitArgPrefixes[LoadingOptions] = field(default_factory=LoadingOptions)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead
        from vitreg.writing.files import refuse_folder

        self.check_photos(self.look, self.load)
        out = self.out.expanduser()
        ahead.refuse_other_format(out)
        refuse_folder(out.parent if out.suffix.lower() == ".png" and not out.is_dir() else out, lambda: None)

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.machine.uncompiled import collector_paused, compiler_left_out

        with compiler_left_out(), collector_paused():
            from vitreg.verbs.look.verb import look

            result = look(
                self.opened("look"), self.model, out=self.out, options=self.look,
                looked=lambda photo: None if self.json else self._print(photo), **loading_of(self.load),
            )  # fmt: skip
        if self.json:
            say(result.record.model_dump_json())
        else:
            self._close(result)
        return Exit.DONE

    def _print(self, photo: PhotoLook) -> None:
        """Print what the models show on a photo, and the picture where the terminal can."""
        if [photo.photo] != [Path(path).name for path in self.images]:
            say(photo.photo)
        for each in photo.models:
            say(f"{each.name}: {each.sentence}")
        if self.show and photo.picture is not None:
            from vitreg.console.pictures import shown

            shown(Path(photo.picture))

    def _close(self, result: Result) -> None:
        """Print what is missing, what one photo cannot show, and where the pictures are."""
        record = result.record
        say_left_out(record, len(record.photos), "Looked at")
        say(record.caution)
        pictures = [Path(photo.picture) for photo in record.photos if photo.picture is not None]
        for path in pictures[1:]:
            say(path)
        open_with(pictures[0])
