"""Shared by the verbs that look at a few photos by several models: their words, the photo that is piped, what was left out."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from vitreg.console.terminal import say
from vitreg.errors import UserError

if TYPE_CHECKING:
    from vitreg.records.explore import ExploreResult
    from vitreg.records.look import LookResult
    from vitreg.verbs.look.options import LoadingOptions, LookOptions

STDIN = "-"
PHOTOS = "photos: files, globs, folders; - is standard input"


@dataclass(frozen=True, kw_only=True)
class OverPhotos:
    """The words of a verb that looks at photos."""

    images: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="PHOTO...",
            help=PHOTOS,
            help_behavior_hint="(at least one)",
        ),
    ]
    model: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(aliases=("-m",), metavar="SPEC", help_behavior_hint="(one that lies in a local cache if unset)"),
    ] = ()
    """A model to look through; may be repeated."""

    def check_photos(self, options: LookOptions, load: LoadingOptions, *, needed: bool = True) -> None:
        """Refuse mistakes that show before a model is loaded. Raises UserError.

        Args:
            needed: whether there must be a photo.
        """
        from vitreg import specs
        from vitreg.passes import ahead

        if needed and not self.images:
            raise UserError("no photo named; give a file, or - for standard input.")
        for path in self.images:
            if specs.has_source(path) and not os.path.lexists(path):
                raise UserError(f"'{path}' is a model, and stands among the photos; name it with -m {path}.")
        ahead.refuse_weights(load.weights, len(self.model))
        for spec in self.model:
            load.check(spec, load.weights)
        for folder in options.repair:
            if not specs.is_repair(folder.expanduser()):
                raise UserError(f"{folder} holds no repair.json, so it is no repair; vitreg fix writes one.")
        ahead.refuse_absent_inputs([path for path in self.images if path != STDIN])

    def opened(self, verb: str) -> list[Any]:
        """Return the photos, with that of standard input read. Raises UserError if that is no picture.

        Args:
            verb: that its errors name.
        """
        return [_from_stdin(verb) if each == STDIN else each for each in self.images]


def loading_of(load: LoadingOptions) -> dict[str, Any]:
    """Return how to load the models, as keywords; repairs are among the options of the verb."""
    given = {name: value for name, value in load.given().items() if name != "repair"}
    return {**given, "weights": load.weights}


def say_left_out(record: LookResult | ExploreResult, shown: int, did: str) -> None:
    """Print which photos could not be read, how many were left out, and how the models were chosen.

    Args:
        shown: number of photos.
        did: what the verb did with them: `Looked at`.
    """
    for skipped in record.skipped:
        say(skipped.sentence)
    seen = shown + len(record.skipped)
    if record.there is not None and seen < record.there:
        verb = did.split()[0].lower()
        them = {"looked": "looks at all of them", "shows": "shows all of them"}[verb]
        say(f"{did} the first {seen} of {record.there} photos; --limit {record.there} {them}.")
    if record.chosen:
        say(record.chosen)


def _from_stdin(verb: str) -> Any:
    """Read a photo from standard input. Raises UserError if it is no picture."""
    from vitreg.data.sources.decode import Unreadable, decode

    if sys.stdin.isatty():
        raise UserError(
            f"- reads a photo from standard input, which is a terminal; pipe one: cat photo.jpg | vitreg {verb} -"
        )
    data = sys.stdin.buffer.read()
    if not data:
        raise UserError(f"standard input is empty; pipe a photo: cat photo.jpg | vitreg {verb} -")
    try:
        picture = decode(io.BytesIO(data), lambda image: image)
    except Unreadable as error:
        raise UserError(f"standard input could not be read: {error.reason}.") from None
    setattr(picture, "filename", "stdin")  # noqa: B010  its name among the photos
    return picture
