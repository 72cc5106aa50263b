"""Shared by the commands of several verbs: positional words, the model, and the last line printed."""

from __future__ import annotations

import inspect
import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.lists import fields_of
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.passes.options import LoadOptions
from vitreg.specs import images_for

if TYPE_CHECKING:
    from vitreg.writing.outputs import Outputs

SPEC_HELP = (
    "the model: timm:NAME, timm:local-dir:DIR, timm:hf-hub:REPO, hf:REPO_OR_DIR, openclip:ARCH[@TAG], hub:OWNER/REPO:ENTRY "
    "(runs that repository's code and needs --trust), torchvision:NAME, planted:KIND, vitreg:born or "
    "vitreg:born-reg4, run:DIR or fixed:DIR (the folder of a run or of a repair alone is enough); or -m SPEC anywhere behind the verb"
)
IMAGES_HELP = (
    "files, folders, globs, zip or tar archives, WebDataset shards, .txt lists of paths, or synthetic:scenes "
    "(for vitreg:born synthetic:retrieval)"
)


@dataclass(frozen=True, kw_only=True)
class OfModel:
    """A verb that takes one model."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=SPEC_HELP)]
    model: OmitArgPrefixes[LoadOptions] = field(default_factory=LoadOptions)

    def check(self) -> None:
        """Refuse a model or weights that can be seen to be wrong without torch. Raises UserError."""
        self.model.check(self.spec, self.model.weights)

    @property
    def loading(self) -> dict[str, Any]:
        """The loading options, as keywords of a verb in Python."""
        return {**self.model.given(), "weights": self.model.weights}


@dataclass(frozen=True, kw_only=True)
class OverImages(OfModel):
    """A verb that runs one model over images."""

    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded: the model's name, then images that do not exist. Raises UserError."""
        from vitreg.passes import ahead

        super().check()
        ahead.refuse_absent_inputs(named_images(self.images, images_for(self.spec)))


def named_images(images: tuple[str, ...], example: str = "photos/") -> list[str]:
    """Return the paths. Raises UserError if there are none, with an example."""
    if not images:
        raise UserError(f"no images named; give files, a folder or an archive, for example {example} behind the spec.")
    return list(images)


def take_models(words: Sequence[str], verb: str, *, several: bool) -> list[str]:
    """Move the models named by -m SPEC to the place of SPEC, the first word.

    Args:
        several: whether the verb takes more than one.
    Raises:
        UserError: for -m without a model, or more models than the verb takes.
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
        raise UserError(
            f"vitreg {verb} takes one model, not {len(found)}; {SEVERAL.get(verb, 'run it once for each')}."
        )
    if not found:
        return left
    return [_BETWEEN + _BETWEEN.join(found) if several else found[0], *left]


def respelled(words: Sequence[str], verb: str) -> list[str]:
    """Write flags that have a second name by their first."""
    also = ALSO.get(verb, {})
    return [
        also.get(word.partition("=")[0], word.partition("=")[0]) + "".join(word.partition("=")[1:]) for word in words
    ]


ALSO = {"export": {"--format": "--to"}}
"""Second names of flags."""
SEVERAL = {"scan": "scan each into its own --out, and vitreg compare shows them side by side"}
"""What to do with several models in verbs that take one."""
_BETWEEN = "\0"  # cannot occur in a word of a command line


def models_of(spec: str, *, commas: bool = True) -> list[str]:
    """Return the models of a verb that takes several: those of -m, or one word, split at commas if `commas`."""
    if spec.startswith(_BETWEEN):
        return spec.split(_BETWEEN)[1:]
    return listed(spec) if commas else [spec]


def notice(old: str, new: str) -> None:
    """Print that a spelling is old and still works."""
    if new != old and speaks():
        say(f"vitreg: {old} is written {new} now; the old spelling still works.", error=True)


def listed(text: str) -> list[str]:
    """Split at commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def check_place(*outputs: Outputs) -> None:
    """Refuse outputs that are in use or cannot be written. Raises UserError.

    Under torchrun the verb checks them in one of its processes.
    """
    from vitreg.passes import ahead

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        for each in outputs:
            ahead.refuse_taken(each)


def manual(thing: Any) -> str:
    """Return the manual of a command: the docstring of its options, or its own without any."""
    if isinstance(thing, type) and is_dataclass(thing):
        name = thing.__name__.lower()
        thing = next((hint for field, hint, _ in fields_of(thing) if field == name), thing)
    return inspect.getdoc(thing) or ""


def contents(things: Mapping[str, object]) -> list[str]:
    """List things by name with the first sentence of their manual, wrapped to the terminal."""
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
    """Whether this process prints; under torchrun only one does."""
    return os.environ.get("RANK", "0") == "0"


def open_with(path: Path) -> None:
    """Print what to open, as the last line of a verb."""
    say(f"Open {path}")


def open_result(folder: Path) -> None:
    """Print what to open of a result: its page, or its record where no page could be drawn."""
    page = folder / "report.html"
    open_with(page if page.is_file() else folder / "result.json")
