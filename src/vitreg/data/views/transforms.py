"""From a picture to a model's input: resize, crop, normalise, and make the sides multiples of the patch.

Torchvision's functions are written out here, because its import loads the compiler of torch too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from vitreg.data.sources.decode import to_rgb
from vitreg.errors import UserError, unknown

Policy = Literal["pad", "crop", "resize"]

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
# If the resized picture exceeds this many times the crop's area, only the crop is computed.
_LARGEST = 16


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes the input of a model. All sizes are (height, width).

    Args:
        size: of the result.
        resize: what the picture is resized to first. A number is its short side; for (height, width) see `aspect`; None
            leaves it as large as it is.
        mean, std: of the three channels, for values in 0..1.
        interpolation: nearest, bilinear, bicubic, box, hamming or lanczos; Pillow's, with antialias.
        crop: cut the centre of `size` out of the resized picture; without it `resize` must be `size`.
        aspect: how a (height, width) in `resize` is met. "squash": exactly, the aspect ratio is not kept. "cover": the
            picture covers it, one side may stand over. "border": the picture lies inside, the rest is `fill`.
        share: side of the crop over that of `resize`, as configured (timm's crop_pct), for other sizes; None uses the
            ratio of the two, which is rounded.
        halves: where the crop begins if the centre lies half a pixel off: at the "even" pixel (torchvision, timm) or
            towards the upper left ("zero", "down": transformers). A border gets its odd pixel below and on the right, but
            "down" above and on the left.
        fill: grey value 0..255 of the border; None is the mean colour.
        passes: order of the two filter passes, with rounding in between. "across": along rows, then columns, as torch
            does with tensors; "pillow": the cheaper order, as Pillow chooses. Results differ where the first pass
            overshoots black or white, and for "nearest" where two pixels are equally near.
    Raises:
        ValueError: for a setting that contradicts another.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: bool = True
    aspect: Literal["squash", "cover", "border"] = "squash"
    share: float | None = None
    halves: Literal["even", "zero", "down"] = "even"
    fill: int | None = None
    passes: Literal["pillow", "across"] = "pillow"

    def __post_init__(self) -> None:
        first = () if self.resize is None else (self.resize,) if isinstance(self.resize, int) else self.resize
        if len(self.size) != 2 or len(first) > 2 or min(*self.size, *first) < 1:
            raise ValueError(f"size {self.size} and resize {self.resize} must be positive heights and widths")
        if self.interpolation not in _PILLOW:
            raise ValueError(f"no interpolation {self.interpolation!r}; known: {', '.join(_PILLOW)}")
        if self.aspect not in ("squash", "cover", "border"):
            raise ValueError(f"aspect must be squash, cover or border, not {self.aspect!r}")
        if self.halves not in ("even", "zero", "down"):
            raise ValueError(f"halves must be even, zero or down, not {self.halves!r}")
        if self.passes not in ("pillow", "across"):
            raise ValueError(f"passes must be pillow or across, not {self.passes!r}")
        if not isinstance(self.resize, tuple) and self.aspect != "squash":
            raise ValueError(
                f"aspect {self.aspect!r} needs resize as (height, width), not the short side {self.resize}"
            )
        if not self.crop and (self.resize != self.size or self.aspect != "squash"):
            raise ValueError(f"without a crop, resize {self.resize} must be the size {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must hold three channels, std above 0")
        if not all(map(math.isfinite, (*self.mean, *self.std))):  # every comparison with NaN is false
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite")

    def __call__(self, image: Image.Image) -> Float32[Tensor, "3 h w"]:
        """Transform one picture."""
        return self.normalise(torch.from_numpy(self.pixels(image)).permute(2, 0, 1)[None])[0]

    def pixels(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """Resize and crop without normalising: the part for threads, with a quarter of the result's memory."""
        picture = to_rgb(image)
        height, width = self._resized(picture.height, picture.width)
        if not self.crop or height * width <= _LARGEST * max(self.size) ** 2:
            whole = self._whole(picture, height, width)
            return np.array(self._centre(whole) if self.crop else whole)
        # 20000 x 10 px would become 512000 x 256.
        return np.array(self._centre_alone(picture, (height, width)))

    def _whole(self, picture: Image.Image, height: int, width: int) -> Image.Image:
        if self.interpolation == "nearest" and self.passes == "across":
            return _taken(picture, self._nearest(picture.height, height), self._nearest(picture.width, width))
        filtered = _PILLOW[self.interpolation]
        if self.passes == "across" and picture.width != width:
            picture = picture.resize((width, picture.height), filtered)
        return picture if picture.size == (width, height) else picture.resize((width, height), filtered)

    def _nearest(self, side: int, resized: int) -> Int64[np.ndarray, "resized"]:
        """Which pixels of a side are taken. Between two equally near, rounding decides, so the library itself is asked."""
        if self.passes == "pillow":
            places = Image.fromarray(np.arange(side, dtype=np.int32)[None])
            return np.asarray(places.resize((resized, 1), Image.Resampling.NEAREST))[0].astype(np.int64)
        as_bytes = np.arange(side, dtype="<u4").view(np.uint8).reshape(side, 4).T.copy()  # torch rounds by dtype
        asked = torch.from_numpy(as_bytes)[None, :, None]  # [1, 4, 1, side]
        taken = torch.nn.functional.interpolate(asked, (1, resized), mode="nearest-exact")[0, :, 0]
        return taken.T.contiguous().numpy().view("<u4")[:, 0].astype(np.int64)

    def _centre(self, picture: Image.Image) -> Image.Image:
        """Cut out the centre, after laying a border around a picture that is too small."""
        rows, cols = max(0, self.size[0] - picture.height), max(0, self.size[1] - picture.width)
        top, left = self._start(picture.height, 0), self._start(picture.width, 1)
        if rows or cols:
            border = (self.fill,) * 3 if self.fill is not None else tuple(round(255 * value) for value in self.mean)
            made = Image.new(
                "RGB", (picture.width + cols, picture.height + rows), border if self.aspect == "border" else 0
            )
            made.paste(picture, (max(0, -left), max(0, -top)))
            picture = made
        top, left = max(0, top), max(0, left)
        return picture.crop((left, top, left + self.size[1], top + self.size[0]))

    def _start(self, side: int, axis: int) -> int:
        """First pixel of the crop along an axis; below 0 where a border begins before the picture."""
        over = side - self.size[axis]
        if over < 0:
            return over // 2 if self.halves == "down" else -(-over // 2)
        return round(over / 2) if self.halves == "even" else over // 2

    def _centre_alone(self, picture: Image.Image, resized: tuple[int, int]) -> Image.Image:
        """Compute `_centre` of the picture resized to (height, width), without the rest."""
        (height, width), (rows, cols) = resized, self.size
        rows, cols = min(rows, height), min(cols, width)  # the missing part becomes border
        top, left = max(0, self._start(height, 0)), max(0, self._start(width, 1))
        if self.interpolation == "nearest":
            down, across = self._nearest(picture.height, height), self._nearest(picture.width, width)
            return self._centre(_taken(picture, down[top : top + rows], across[left : left + cols]))
        down, across = picture.height / height, picture.width / width  # pixels of the picture over those of the result
        margin = math.ceil(4 * max(1.0, down))  # no filter reaches farther
        first = max(0, math.floor(top * down) - margin)
        last = min(picture.height, math.ceil((top + rows) * down) + margin)
        filtered = _PILLOW[self.interpolation]
        shown = picture.crop((0, first, picture.width, last))
        shown = shown.resize(
            (cols, last - first), filtered, box=(left * across, 0, (left + cols) * across, last - first)
        )
        shown = shown.resize((cols, rows), filtered, box=(0, top * down - first, cols, (top + rows) * down - first))
        return self._centre(shown)

    def normalise(self, pixels: UInt8[Tensor, "B 3 h w"]) -> Float32[Tensor, "B 3 h w"]:
        """Turn bytes into values of mean 0 and deviation 1 over the data the model was trained on."""
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        mean, std = (values.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return values.sub_(mean).div_(std)

    def unnormalise(self, image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
        """Undo the normalisation, for showing what the model saw; height and width may be any."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        values = (image.detach().cpu().float() * std + mean) * 255
        return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()

    def with_size(self, size: tuple[int, int]) -> Preprocess:
        """Return the same with another (height, width), resizing in the same proportion to the crop."""
        if size == self.size:
            return self
        rows, cols = self.size
        if not self.crop:
            return replace(self, size=size, resize=size)
        if self.resize is None:
            return replace(self, size=size)
        if self.share is not None:
            meeting = "cover" if isinstance(self.resize, int) else self.aspect
            return replace(self, size=size, **_scaled(size, self.share, meeting))
        old = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        resize = (round(size[0] * old[0] / rows), round(size[1] * old[1] / cols))
        if not isinstance(self.resize, int):
            return replace(self, size=size, resize=resize)
        short = min(rows, cols)  # a number says how much larger than the short side of the crop the picture is
        if size[0] == size[1]:
            return replace(self, size=size, resize=round(size[0] * self.resize / short))
        cover = (round(size[0] * self.resize / short), round(size[1] * self.resize / short))
        return replace(self, size=size, resize=cover, aspect="cover")

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> Preprocess:
        """Read a timm `pretrained_cfg` (as a dictionary) the way timm's evaluation transform does.

        Read are input_size, crop_pct, crop_mode (center, squash, border), interpolation, mean and std; what is missing
        or None has timm's default.

        Raises:
            ValueError: for an input that is not RGB or a crop_mode that does not exist.
        """

        def value(key: str, default: Any) -> Any:
            return default if config.get(key) is None else config[key]

        channels, height, width = value("input_size", (3, 224, 224))
        if channels != 3:
            raise ValueError(f"a model of {channels} channels; pictures have 3")
        share, mode = value("crop_pct", 0.875) or 0.875, value("crop_mode", "center")
        aspects: dict[str, Literal["squash", "cover", "border"]]
        aspects = {"center": "cover", "squash": "squash", "border": "border"}
        if mode not in aspects:
            raise ValueError(f"no crop_mode {mode!r}; known: {', '.join(aspects)}")
        return cls(
            size=(height, width),
            **_scaled((height, width), share, aspects[mode]),
            share=share,
            mean=tuple(value("mean", IMAGENET.mean)),
            std=tuple(value("std", IMAGENET.std)),
            interpolation=value("interpolation", "bicubic"),
        )

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture after it was resized."""
        if self.resize is None:
            return height, width
        if isinstance(self.resize, int):
            long = self.resize * max(height, width) // min(height, width)
            return (long, self.resize) if width <= height else (self.resize, long)
        if self.aspect == "squash":
            return self.resize
        ratios = (height / self.resize[0], width / self.resize[1])
        ratio = min(ratios) if self.aspect == "cover" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))


def fit(images: Float[Tensor, "B 3 H W"], patch: tuple[int, int], policy: Policy) -> Float[Tensor, "B 3 h w"]:
    """Make height and width multiples of the patch; the same tensor where they are. For a model, see `Backbone.fit`.

    Args:
        images: normalised.
        patch: (height, width) of a patch in pixels.
        policy: "pad" with zeros at the bottom and the right (the mean colour), "crop" to the centre, or "resize" to the
            nearest multiple, bicubic with antialias.
    Raises:
        UserError: for a policy that does not exist, or where a crop would leave nothing.
    """
    if policy not in ("pad", "crop", "resize"):
        raise unknown("size policy", str(policy), ("pad", "crop", "resize"))
    height, width = images.shape[-2:]
    over = (height % patch[0], width % patch[1])
    if not any(over):
        return images
    if policy == "pad":
        return torch.nn.functional.pad(images, (0, -width % patch[1], 0, -height % patch[0]))
    if policy == "crop":
        if height < patch[0] or width < patch[1]:
            raise UserError(
                f"{height}x{width} px cannot be cropped to a multiple of {patch[0]}x{patch[1]} px; choose a larger size."
            )
        top, left = over[0] // 2, over[1] // 2
        return images[..., top : top + height - over[0], left : left + width - over[1]]
    # Half a patch rounds up.
    size = [max(1, (2 * side + p) // (2 * p)) * p for side, p in zip((height, width), patch, strict=True)]
    resized = torch.nn.functional.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
    return resized.to(images.dtype)


def _taken(picture: Image.Image, rows: Int64[np.ndarray, "h"], cols: Int64[np.ndarray, "w"]) -> Image.Image:
    return Image.fromarray(np.asarray(picture)[np.ix_(rows, cols)])


def _scaled(size: tuple[int, int], share: float, aspect: str) -> dict[str, Any]:
    """Return `resize` and `aspect` for a crop that is this share of the picture: timm's rounding is down."""
    resize = (int(size[0] / share), int(size[1] / share))
    if aspect == "cover" and resize[0] == resize[1]:
        return {"resize": resize[0], "aspect": "squash"}  # the short side is enough
    return {"resize": resize, "aspect": aspect}


IMAGENET = Preprocess((224, 224), 256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Short side 256, centre 224: DINOv2, DeiT and most evaluations on ImageNet."""
CLIP = Preprocess(
    (224, 224), 224, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)  # fmt: skip
"""Short side 224, centre 224, with the statistics of CLIP's data."""
HALF = Preprocess((224, 224), (224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=False)
"""Squashed to 224 x 224, values in -1..1: ViT of the original paper's code and SigLIP."""
