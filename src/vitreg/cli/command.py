"""What the commands of several verbs share: the words before the flags, the model, and the last line."""

from __future__ import annotations

import inspect
import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.lists import fields_of
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.passes.options import LoadOptions
from vitreg.writing.outputs import Outputs

SPEC_HELP = (
    "the model: timm:NAME, timm:local-dir:DIR, timm:hf-hub:REPO, hf:REPO_OR_DIR, openclip:ARCH[@TAG], hub:OWNER/REPO:ENTRY "
    "(runs that repository's code and needs --trust), torchvision:NAME, planted:KIND, or run:DIR (the folder of a run alone is "
    "enough); or -m SPEC anywhere behind the verb"
)
IMAGES_HELP = "files, folders, globs, zip or tar archives, WebDataset shards, or .txt lists of paths"


@dataclass(frozen=True, kw_only=True)
class OfModel:
    """A verb that takes one model."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    model: OmitArgPrefixes[LoadOptions] = field(default_factory=LoadOptions)

    def check(self) -> None:
        """Refuse a model or weights that no library has to be asked about. Raises UserError."""
        self.model.check(self.spec, self.model.weights)

    @property
    def loading(self) -> dict[str, Any]:
        """What says how the model is loaded, as keywords of a verb in Python."""
        return {**self.model.given(), "weights": self.model.weights}


@dataclass(frozen=True, kw_only=True)
class OverImages(OfModel):
    """A verb that shows images to one model."""

    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]

    def check(self) -> None:
        """Refuse what no model is needed for: the model's name, then images that do not exist. Raises UserError."""
        super().check()
        ahead.refuse_absent_inputs(named_images(self.images))


def named_images(images: tuple[str, ...]) -> list[str]:
    """Return the paths. Raises UserError if there are none."""
    if not images:
        raise UserError("no images named; give files, a folder or an archive, for example photos/ behind the spec.")
    return list(images)


def take_models(words: Sequence[str], verb: str, *, several: bool) -> list[str]:
    """Move the models named by -m SPEC to where SPEC stands, the first word.

    Args:
        several: whether the verb takes more than one.
    Raises:
        UserError: for -m without a model, and for more models than the verb takes.
    """
    left, found, coming = [], [], iter(words)
    for word in coming:
        name, given, value = word.partition("=")
        if name not in ("-m", "--model"):
            left.append(word)
            continue
        value = value if given else next(coming, "")
        if not value or value.startswith("-"):
            raise UserError(f"-m needs a model, such as timm:vit_small_patch14_reg4_dinov2; see vitreg {verb} --help.")
        found.append(value)
    if len(found) > 1 and not several:
        raise UserError(f"vitreg {verb} takes one model, not {len(found)}; vitreg maps shows several side by side.")
    if not found:
        return left
    return [_BETWEEN + _BETWEEN.join(found) if several else found[0], *left]


_BETWEEN = "\0"  # no word of a command line can hold it


def models_of(spec: str, *, commas: bool = True) -> list[str]:
    """Return the models of a verb that takes several: each named by -m, or one word, with commas where these part models."""
    if spec.startswith(_BETWEEN):
        return spec.split(_BETWEEN)[1:]
    return listed(spec) if commas else [spec]


def notice(old: str, new: str) -> None:
    """Say that something is written otherwise today; the older spelling works on."""
    if new != old and speaks():
        say(f"vitreg: {old} is written {new} now; the older spelling works on.", error=True)


def listed(text: str) -> list[str]:
    """Split at commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def check_place(*outputs: Outputs) -> None:
    """Refuse places that are taken or cannot be written. Raises UserError.

    Under torchrun the verb does this by itself, in one of its processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        for each in outputs:
            ahead.refuse_taken(each)


def manual(thing: Any) -> str:
    """Return the manual of a command: that of its verb's options, the field that is called as the command is."""
    if isinstance(thing, type) and is_dataclass(thing):
        name = thing.__name__.lower()
        thing = next((hint for field, hint, _ in fields_of(thing) if field == name), thing)
    return inspect.getdoc(thing) or ""


def contents(things: Mapping[str, object]) -> list[str]:
    """List things by name with the first sentence of their manual, as wide as the terminal."""
    width, column = min(shutil.get_terminal_size().columns, 120), max(map(len, things)) + 4
    return [
        textwrap.fill(
            manual(thing).split("\n\n")[0].replace("\n", " "),
            width,
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
        )
        for name, thing in things.items()
    ]


def speaks() -> bool:
    """Whether this process prints: of several under torchrun, one does."""
    return os.environ.get("RANK", "0") == "0"


def open_with(path: Path) -> None:
    """End a verb: say what to open."""
    say(f"Open {path}")
