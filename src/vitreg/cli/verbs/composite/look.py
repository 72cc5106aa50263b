"""`vitreg look`."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from vitreg.cli.command import open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.verbs.look.options import LoadingOptions, LookOptions

if TYPE_CHECKING:
    from vitreg.records.look import PhotoLook
    from vitreg.verbs.look.verb import Look as Result

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class Look:
    """The words of `vitreg look`."""

    images: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="PHOTO...",
            help="photos: files, globs, folders; - is standard input",
            help_behavior_hint="(at least one)",
        ),
    ]
    model: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(aliases=("-m",), metavar="SPEC", help_behavior_hint="(one that lies in a local cache if unset)"),
    ] = ()
    """A model to look through; may be repeated."""
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
        from vitreg import specs
        from vitreg.passes import ahead
        from vitreg.writing.files import refuse_folder

        if not self.images:
            raise UserError("no photo named; give a file, or - for standard input.")
        for path in self.images:
            if specs.has_source(path) and not os.path.lexists(path):
                raise UserError(f"'{path}' is a model, and stands among the photos; name it with -m {path}.")
        ahead.refuse_weights(self.load.weights, len(self.model))
        for spec in self.model:
            self.load.check(spec, self.load.weights)
        for folder in self.look.repair:
            if not specs.is_repair(folder.expanduser()):
                raise UserError(f"{folder} holds no repair.json, so it is no repair; vitreg fix writes one.")
        ahead.refuse_absent_inputs([path for path in self.images if path != STDIN])
        out = self.out.expanduser()
        refuse_folder(out.parent if out.suffix.lower() == ".png" and not out.is_dir() else out, lambda: None)

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.machine.uncompiled import collector_paused, compiler_left_out

        with compiler_left_out(), collector_paused():
            from vitreg.verbs.look.verb import look

            result = look(
                [_from_stdin() if each == STDIN else each for each in self.images], self.model, out=self.out,
                options=self.look, looked=lambda photo: None if self.json else self._print(photo), **self._loading,
            )  # fmt: skip
        if self.json:
            say(result.record.model_dump_json())
        else:
            self._close(result)
        return Exit.DONE

    @property
    def _loading(self) -> dict[str, Any]:
        """How to load the models, as keywords; repairs are among the options of the verb."""
        given = {name: value for name, value in self.load.given().items() if name != "repair"}
        return {**given, "weights": self.load.weights}

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
        for skipped in record.skipped:
            say(f"{skipped.name} could not be read: {skipped.reason}.")
        seen = len(record.photos) + len(record.skipped)
        if record.there is not None and seen < record.there:
            say(f"Looked at the first {seen} of {record.there} photos; --limit {record.there} looks at all of them.")
        if record.chosen:
            say(record.chosen)
        say(record.caution)
        pictures = [Path(photo.picture) for photo in record.photos if photo.picture is not None]
        for path in pictures[1:]:
            say(path)
        open_with(pictures[0])


def _from_stdin() -> Any:
    """Read a photo from standard input. Raises UserError if it is no picture."""
    from vitreg.data.sources.decode import Unreadable, decode

    if sys.stdin.isatty():
        raise UserError(
            "- reads a photo from standard input, which is a terminal; pipe one: cat photo.jpg | vitreg look -"
        )
    data = sys.stdin.buffer.read()
    if not data:
        raise UserError("standard input is empty; pipe a photo: cat photo.jpg | vitreg look -")
    try:
        picture = decode(io.BytesIO(data), lambda image: image)
    except Unreadable as error:
        raise UserError(f"standard input could not be read: {error.reason}.") from None
    setattr(picture, "filename", "stdin")  # noqa: B010  its name among the photos
    return picture
