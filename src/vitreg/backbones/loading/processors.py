"""Convert the image processor of a transformers model to a `Preprocess`, and verify that both do the same.

The library reads its own files, in all their layouts; only the settings of the resulting object are used. Both then
prepare synthetic pictures: a processor that deviates from its settings is refused with the reason.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitreg.backbones.loading.fetch import calm, first_line, no_questions
from vitreg.backbones.loading.preprocessing import Unprepared, three
from vitreg.data.views.transforms import Preprocess
from vitreg.documents import read_json
from vitreg.errors import UserError

FILES = (
    "preprocessor_config.json",
    "processor_config.json",
)  # alone, or inside that of a processor of texts and images
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
_SQUARE = (131, 131)
# Steps of 1/255. Pillow and torchvision compute the same antialiased filter with different fixed-point widths, and
# DINOv3's processor does not round at all: each pass over rows or columns may differ by one step.
_AGREEMENT = 2.01


def read_processor(name: str) -> Preprocess | Unprepared | None:
    """Read the image processor of a model on the hub or in a folder; None if there is none.

    Raises:
        UserError: for a file that is no JSON.
    """
    if not _has_processor(name):
        return None
    from transformers import AutoImageProcessor

    try:
        with calm(), no_questions(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever a foreign file can make the library raise
        if "trust_remote_code" in str(error):
            return Unprepared(
                f"the image processor of hf:{name} is code of its own repository, which vitreg never runs; give tensors."
            )
        return Unprepared(
            f"transformers cannot read the image processor of hf:{name} ({first_line(error)}); give tensors."
        )
    return mirror(processor)


def mirror(processor: Any) -> Preprocess | Unprepared:
    """Return a `Preprocess` equivalent to an image processor of transformers, verified on synthetic pictures."""
    kind = type(processor).__name__
    if processor.do_resize is False and not processor.do_center_crop:
        return Unprepared(f"{kind} leaves pictures as large as they are, so they have no size in common; give tensors.")
    try:
        found, even = _by_settings(processor)
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        return Unprepared(f"{kind} has settings that are not known here ({first_line(error)}); give tensors.")
    try:
        distance, same = _closest(found, processor, _pictures(found) if even else (_SQUARE,))
    except Exception as error:  # the library's own code, on settings that it may not have been written for
        return Unprepared(f"{kind} cannot prepare a picture with its own settings ({first_line(error)}); give tensors.")
    if distance > _AGREEMENT:
        how = f"differ by {distance:.0f} of 255 levels" if distance < math.inf else "come out in another shape"
        return Unprepared(
            f"{kind} prepares pictures in a way that vitreg cannot repeat (made pictures {how}); prepare them with it and "
            "give tensors."
        )
    if even:
        return same
    return Unprepared(
        f"{kind} keeps the aspect ratio of pictures (a square one gets {same.size[0]}x{same.size[1]} px), so they have no "
        f"size in common; pass --size, such as {same.size[0]}, to cut out their centre, or give tensors.",
        same,
    )


def _closest(own: Preprocess, processor: Any, sizes: Sequence[tuple[int, int]]) -> tuple[float, Preprocess]:
    """Choose what the settings leave open: where a crop begins and which axis is filtered first.

    Returns:
        the largest difference over synthetic pictures in steps of 1/255, infinite if shapes differ, and the
        `Preprocess` it belongs to.
    """
    random = np.random.default_rng(0)
    unsaid = itertools.product(("zero", "down", "even"), ("across", "pillow"))
    rules = [replace(own, halves=halves, passes=passes) for halves, passes in unsaid]
    worst = [0.0] * len(rules)
    for height, width in sizes:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        with calm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = torch.as_tensor(processor(images=picture, return_tensors="pt")["pixel_values"])
        worst = [max(w, _distance(rule, picture, theirs)) for w, rule in zip(worst, rules, strict=True)]
    return min(zip(worst, rules, strict=True), key=lambda pair: pair[0])


def _distance(own: Preprocess, picture: Image.Image, theirs: torch.Tensor) -> float:
    ours = own(picture)[None]
    if theirs.shape != ours.shape:
        return math.inf
    step = 1 / (255 * torch.tensor(own.std).view(3, 1, 1))
    distance = float(((theirs.float() - ours) / step).abs().max())
    return math.inf if math.isnan(distance) else distance  # `max` and `>` would ignore NaN


def _by_settings(processor: Any) -> tuple[Preprocess, bool]:
    """Read the settings, and whether they give every picture the same size; if not, they hold for a square picture.

    Raises ValueError, TypeError or KeyError for settings without an equivalent `Preprocess`.
    """

    def setting(name: str) -> Any:
        return getattr(processor, name, None)

    mean, std = _affine(setting)
    resample = setting("resample")
    interpolation = "bilinear" if resample is None else _INTERPOLATIONS[int(resample)]
    resize, even = _resizing(setting("size")) if setting("do_resize") else (None, True)
    if setting("do_center_crop"):
        if not even:
            raise ValueError("a crop out of pictures that lie inside a frame")
        return Preprocess(_sides(setting("crop_size")), resize, mean, std, interpolation), True
    if isinstance(resize, tuple):
        return Preprocess(resize, resize, mean, std, interpolation, crop=False), True
    if resize is None:
        raise ValueError("no size")
    return Preprocess((resize, resize), resize, mean, std, interpolation), False


def _resizing(size: Any) -> tuple[int | tuple[int, int], bool]:
    """Return the short side or (height, width) that a square picture is resized to, and whether this holds for all
    pictures."""
    short, long = _entry(size, "shortest_edge"), _entry(size, "longest_edge")
    frame = [side for side in (long, _entry(size, "max_height"), _entry(size, "max_width")) if side]
    if frame:
        return min(int(side) for side in [*frame, *([short] if short else [])]), False
    return (int(short), True) if short else (_sides(size), True)


def _affine(setting: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std for values in 0..1 that equal rescaling and normalising of bytes."""
    factor = float(setting("rescale_factor")) if setting("do_rescale") else 1.0
    shift = 1.0 if setting("do_rescale") and setting("rescale_offset") else 0.0
    mean, std = three(0.0), three(1.0)
    if setting("do_normalize"):
        mean, std = three(setting("image_mean")), three(setting("image_std"))
    whole = 255 * factor  # what the brightest byte becomes
    red, green, blue = ((value + shift) / whole for value in mean)
    return (red, green, blue), three([value / whole for value in std])


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if not _entry(size, "height") or not _entry(size, "width"):
        raise ValueError(f"a size of {size}")
    return int(_entry(size, "height")), int(_entry(size, "width"))


def _entry(size: Any, name: str) -> Any:
    """Read a dictionary of sizes, which newer versions keep in a class of their own."""
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


def _pictures(own: Preprocess) -> list[tuple[int, int]]:
    """Return sizes of pictures on which the candidates of `_closest` differ, and of a tall and a wide one."""
    rows, cols = own.size
    shrunk = min(1.0, 1000 / max(own.size))  # keeps pictures to a few megapixels
    pictures = [(91, 130), (167, 120), (int(2.2 * rows * shrunk), int(1.5 * cols * shrunk))]
    if own.interpolation == "nearest":  # where pixels are equally near, libraries round differently
        sides = (own.resize, own.resize) if isinstance(own.resize, int) else own.resize or own.size
        lowest = [2 * (side & -side) for side in sides]
        pictures += [(lowest[0] * odd, lowest[1] * odd) for odd in (1, 3, 5) if odd == 1 or odd * max(lowest) <= 1000]
    if own.crop and not isinstance(own.resize, tuple):
        # Not resized, and 4 n + 3 pixels wider than the crop: one rule rounds its centre up, the others down.
        short = own.resize or rows
        pictures.append((short, short + 4 + (cols + 3 - short) % 4))
        pictures.append((min(short, max(1, cols - 3)), max(1, cols - 3)))  # an odd border
    return pictures


def _has_processor(name: str) -> bool:
    from transformers.utils.hub import cached_file

    found = False
    for file in FILES:
        try:
            with calm(), no_questions():
                path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        except OSError:
            path = None
        if path is not None:
            document = read_json(Path(path))
            if not isinstance(document, Mapping):
                raise UserError(f"{path} is no image processor of transformers: it holds no settings by name.")
            found = found or file == FILES[0] or "image_processor" in document
    return found
