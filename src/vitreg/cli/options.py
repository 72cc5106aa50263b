"""What several verbs share: how a model is loaded, and words of the command line turned into values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vitreg.errors import UserError

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


def parse_layers(text: str) -> list[int] | Literal["all"]:
    """Read "all", "-1" or "5,8,11".

    Raises:
        UserError: for anything else.
    """
    if text == "all":
        return "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--layer {text} names no block; give a number such as 7, several as 5,8,11, or all.") from None


def positive(flag: str, value: int | None) -> int | None:
    """Return a count, None where it was not given.

    Raises:
        UserError: if it is below 1.
    """
    if value is not None and value < 1:
        raise UserError(f"--{flag} must be at least 1, not {value}.")
    return value


def named_images(images: tuple[str, ...]) -> list[str]:
    """Return the paths.

    Raises:
        UserError: if there are none.
    """
    if not images:
        raise UserError("no images named; give files, a folder or an archive, for example photos/ behind the spec.")
    return list(images)
