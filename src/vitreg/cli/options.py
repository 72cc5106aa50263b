"""What several verbs share: how a model is loaded, and words of the command line turned into values."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vitreg import specs
from vitreg.cli.lists import Listed
from vitreg.console.terminal import say
from vitreg.errors import UserError, unknown
from vitreg.passes import ahead
from vitreg.writing.outputs import Outputs

SPEC_HELP = (
    "the model: timm:NAME, timm:local-dir:DIR, timm:hf-hub:REPO, hf:REPO_OR_DIR, openclip:ARCH[@TAG], hub:OWNER/REPO:ENTRY "
    "(runs that repository's code and needs --trust), torchvision:NAME, planted:KIND, or run:DIR (the folder of a run alone is enough)"
)
IMAGES_HELP = "files, folders, globs, zip or tar archives, WebDataset shards, or .txt lists of paths"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How to load the model and run it."""

    random: bool = False
    """Use untrained weights instead of fetching pretrained ones."""
    strict: bool = False
    """Refuse a checkpoint whose position table would have to be resampled."""
    allow_partial: bool = False
    """Accept a checkpoint with missing or unexpected keys."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; the best there is if unset."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where that is faster on this machine, else fp32. Statistics are fp32 always."""
    trust: bool = False
    """Run the code of the repository that hub:OWNER/REPO:ENTRY names. No other source runs any code of its files."""


AS_IT_IS = ModelOptions()
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia")
Blocks = Annotated[str, Listed(r"-?\d+|all|none")]
"""Numbers of blocks."""


LARGEST_SIDE = 8192  # pixels


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read "518" or "384x512" (height x width).

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or not 0 < int(match[1]) <= LARGEST_SIDE or not 0 < int(match[2] or match[1]) <= LARGEST_SIDE:
        raise UserError(
            f"--size {text} is no image size; give 518 or 384x512 (height x width), {LARGEST_SIDE} pixels a side at most."
        )
    return int(match[1]), int(match[2] or match[1])


def parse_blocks(flag: str, text: str, other: Literal["all", "none"]) -> list[int] | None:
    """Read "-1" or "5,8,11"; None for the word `other`.

    Raises:
        UserError: for anything else.
    """
    if text == other:
        return None
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise UserError(
            f"--{flag} {text} names no block; give a number such as 7, several as 5,8,11 or 5 8 11, or {other}."
        ) from None


def listed(text: str) -> list[str]:
    """Split at commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def at_least(low: int, flag: str, value: int | None) -> None:
    """Raise UserError for a number below `low`; one that was not given passes."""
    if value is not None and value < low:
        raise UserError(f"--{flag} must be at least {low}, not {value}.")


def named_images(images: tuple[str, ...]) -> list[str]:
    """Return the paths.

    Raises:
        UserError: if there are none.
    """
    if not images:
        raise UserError("no images named; give files, a folder or an archive, for example photos/ behind the spec.")
    return list(images)


def check_model(spec: str, weights: str | Path | None, model: ModelOptions) -> None:
    """Refuse a model, weights or a device that no library has to be asked about. Raises UserError."""
    specs.refuse(spec, random=model.random, weights=weights, trust=model.trust)
    if model.device is not None:
        kind = re.fullmatch(r"([a-z]+)(?::\d+)?", model.device)
        if kind is None or kind[1] not in DEVICES:
            raise unknown("device", model.device, DEVICES)
    ahead.refuse_absent_inputs(files=[weights])


def check_place(*outputs: Outputs) -> None:
    """Refuse places that are taken or cannot be written. Raises UserError.

    Under torchrun the verb does this by itself, in one of its processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        for each in outputs:
            ahead.refuse_taken(each)


def contents(things: Mapping[str, object]) -> list[str]:
    """List things by name with the first sentence of their manual, as wide as the terminal."""
    width, column = min(shutil.get_terminal_size().columns, 120), max(map(len, things)) + 4
    return [
        textwrap.fill(
            (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " "),
            width,
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
        )
        for name, thing in things.items()
    ]


def open_with(path: Path) -> None:
    """End a verb: say what to open."""
    say(f"Open {path}")
