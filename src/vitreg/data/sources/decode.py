"""Decode the bytes of an image file to an RGB picture, or to a short reason why not.

For any bytes the outcome is one of the two, never another exception, a hang, or unbounded memory. 16-bit grey is scaled
instead of clipped, transparency is composed on white, EXIF orientation is applied.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

T = TypeVar("T")

MAX_PIXELS = 178_956_970  # Pillow's own limit, enforced even if Pillow's was lifted

# Formats with a signature. Left out on purpose: EPS (runs Ghostscript), TGA (no signature: reads noise as an image),
# and containers such as HDF5 that Pillow knows by name only. HEIF works where a plugin for it has been registered.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "HEIF")
EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif"),
        *("jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm", "ico", "qoi", "heic", "heif"),
    )
)
_SIGNATURES = tuple(
    (re.compile(signature, re.DOTALL), name)
    for signature, name in (
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG", "PNG"),
        (rb"GIF8", "GIF"),
        (rb"BM.{4}\0\0\0\0", "BMP"),
        (rb"II[*+]\0|MM\0[*+]", "TIFF"),
        (rb"RIFF.{4}WEBP", "WebP"),
        (rb".{4}ftypavi[fs]", "AVIF"),
        (rb"\0\0\0\x0cjP|\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"qoif", "QOI"),
    )
)

# Most decoders read a file as a whole. This holds the largest picture without compression, at four bytes a pixel.
MAX_FILE_BYTES = 3 << 28
_LARGE_BYTES = 1 << 26
# A picture of 100 megapixels takes 400 MB, and twice that during conversion: one at a time per process.
_LARGE_PIXELS = 32_000_000
_one_large_image = threading.RLock()
_BAND_PIXELS = 8_000_000  # conversions go in bands, so that a large picture is not in memory three times
# A progressive JPEG may repeat tiny scans, each of which visits every block: minutes from a few kilobytes.
_MAX_SCANNED_PIXELS = 3_000_000_000  # 16 scans of the largest picture; about four seconds
# libjpeg fills missing data with grey. A block of 64 pixels takes at least one bit, so 512 would be the bound; eight
# times that leaves room for arithmetic coding.
_JPEG_PIXELS_PER_BYTE = 4096

TURNED = "vitreg_turned"
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


class Unreadable(Exception):  # noqa: N818  the reason is its point, not a failure
    """An unreadable image. `reason` says why, in a few words without a full stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(file: BinaryIO, then: Callable[[Image.Image], T], *, min_side: int = 1) -> T:
    """Read the first frame of an image file as RGB and hand it to `then`; return what that returns.

    A picture above 32 megapixels, or in a file above 64 MB, is decoded and passed to `then` one at a time per process,
    so that threads do not multiply its memory. Shrink the picture in `then`.

    Args:
        file: seekable and open for reading; it stays open.
        then: receives an upright RGB picture, composed on white. If it was turned, its `info` has the EXIF orientation
            under `TURNED`.
        min_side: a picture that fits into a square of this many pixels is refused: it would be smaller than one patch.
    Raises:
        Unreadable: for any fault of the file. Exceptions of `then` pass unchanged.
    """
    size = _bounded(file)
    with _one_large_image if size > _LARGE_BYTES else nullcontext():
        with _Reasons(file):
            image = _opened(file, size, min_side)
        with _one_large_image if image.width * image.height > _LARGE_PIXELS else nullcontext():
            with _Reasons(file):
                image = upright(image)
            return then(image)


def upright(image: Image.Image) -> Image.Image:
    """Return an opened picture as RGB, turned by its EXIF orientation, which is then in `info` under `TURNED`."""
    image.load()
    orientation = _orientation(image)
    image = to_rgb(image)
    if orientation in _ROTATIONS:
        image = image.transpose(_ROTATIONS[orientation])
        for tag in ("exif", "xmp"):  # else the next reader would turn it again
            image.info.pop(tag, None)
        image.info[TURNED] = orientation
    return image


def header(file: BinaryIO) -> Image.Image:
    """Open an image file within the bounds of `decode`, its pixels unread. Raises Unreadable."""
    size = _bounded(file)
    with _Reasons(file):
        return _opened(file, size, min_side=1)


def numbers(file: BinaryIO) -> np.ndarray:
    """Read the pixels of an image file as they are, palette indices for a palette, within the bounds of `decode`.

    Raises:
        Unreadable: for any fault of the file.
    """
    image = header(file)
    with _Reasons(file):
        return np.array(image)


def _bounded(file: BinaryIO) -> int:
    """Return the bytes of a file, if within the limit."""
    silence_pillow()
    with _Reasons(file):
        size = file.seek(0, 2)
        if size == 0:
            raise Unreadable("empty file")
        if size > MAX_FILE_BYTES:
            raise Unreadable(f"{size / 1e6:.0f} MB, more than the limit of {MAX_FILE_BYTES / 1e6:.0f}")
        file.seek(0)
    return size


def _opened(file: BinaryIO, size: int, min_side: int) -> Image.Image:
    """Read the header, and refuse pictures that cannot be decoded in bounded time and memory."""
    image = Image.open(file, formats=_known_formats())
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(_too_many(width * height))
    if max(width, height) < min_side:
        raise Unreadable(f"{width}x{height} px is smaller than one patch ({min_side} px)")
    if image.format in ("JPEG", "MPO"):
        if _scans(file) * width * height > _MAX_SCANNED_PIXELS:
            raise Unreadable("JPEG with too many scans")
        if width * height > _JPEG_PIXELS_PER_BYTE * size:
            raise Unreadable(f"{size} bytes cannot hold {width}x{height} px")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB.

    Transparency is composed on white. 16-bit grey is divided by 257. Modes I and F have no fixed range: a non-negative
    picture is read as 0..1 (F only), 0..255 or 0..65535, the first that holds it; anything else is stretched from its
    minimum to its maximum. ICC profiles are ignored, as in the libraries the models were trained with.

    Raises:
        ValueError: for a mode Pillow cannot convert.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_to_rgb(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # only None for in-place conversion
        return converted
    keyed = "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    if image.mode not in _ALPHA_MODES and not keyed:
        return image if image.mode == "RGB" else image.convert("RGB")
    out = Image.new("RGB", image.size, "white")
    for box in _bands(image.size):
        band = image.crop(box)
        if band.mode == "La":
            band = band.convert("LA")
        band = band.convert("RGBA")
        out.paste(band, box, band)
    return out


def unsure_which_way(orientation: int, size: tuple[int, int], annotated: tuple[int, int] | None) -> str:
    """Return why boxes or a map cannot be placed on a picture turned by its EXIF orientation; "" if they can.

    If turning keeps the size, it is unknown whether they were drawn before or after it.

    Args:
        orientation: EXIF's, 1 for a picture that lies as it is stored.
        size: (height, width) of the picture.
        annotated: (height, width) that the boxes were drawn on, None if unknown.
    """
    sideways = orientation >= 5
    if orientation in _ROTATIONS and (annotated is None or not sideways or size[0] == size[1]):
        return f"its EXIF orientation {orientation} turns it, and nothing says whether it was annotated before or after"
    return ""


def silence_pillow() -> None:
    """Silence Pillow's warnings: the relevant ones become reasons.

    One narrow filter for the process, because `warnings.catch_warnings` is not safe in threads. It is checked each
    time, since a test runner or a notebook may have reset the filters.
    """
    if not any(action == "ignore" and module == _PILLOW for action, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
    tiff = logging.getLogger("PIL.TiffImagePlugin")
    if tiff.level != logging.CRITICAL:  # setting it empties the caches of all loggers, too slow for every picture
        tiff.setLevel(logging.CRITICAL)  # it also raises what it logs
    _silence_libtiff()


_PILLOW = re.compile(r"PIL\.")


@functools.cache
def _silence_libtiff() -> None:
    # libtiff writes a line to stderr for each damaged scan line, past Python. Its handler is reachable where Pillow
    # links it dynamically; elsewhere the lines stay, which does no harm.
    with suppress(AttributeError, OSError, TypeError):
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def _known_formats() -> list[str]:
    if not all(name in Image.OPEN for name in FORMATS):
        Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


class _Reasons(AbstractContextManager[None]):
    """Turn a decoder's exceptions into Unreadable, except Ctrl-C and interpreter exit."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Unreadable) or not isinstance(error, Exception):
            return
        raise Unreadable(self.reason(error)) from error

    def reason(self, error: Exception) -> str:
        text = str(error)
        if isinstance(error, Image.DecompressionBombError):
            pixels = re.search(r"\((\d+) pixels\)", text)
            return _too_many(int(pixels[1])) if pixels else "too many pixels"
        if isinstance(error, UnidentifiedImageError):
            return self._unidentified()
        if isinstance(error, MemoryError):
            return "too large for the memory"
        if isinstance(error, EOFError) or "truncated" in text.lower() or "not enough" in text.lower():
            return "truncated file"
        if self._cut_off():
            return "truncated file"
        if isinstance(error, OSError) and error.errno is not None:
            return (error.strerror or type(error).__name__).lower()
        if isinstance(error, struct.error | IndexError | KeyError):  # their messages do not help
            return "damaged file"
        detail = " ".join(text.split())[:100]
        return f"damaged file ({detail})" if re.search("[a-z]", detail) else "damaged file"  # libtiff says "-2"

    def _unidentified(self) -> str:
        start = self._start()
        if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"):
            return "HEIC image: Pillow reads it with the pillow-heif plugin only"
        for signature, name in _SIGNATURES:
            if signature.match(start):
                return _bands_of(self.file) if name == "TIFF" else f"truncated or damaged {name} header"
        return "not an image"

    def _cut_off(self) -> bool:
        # The WebP decoder does not say so; its container knows how long it was.
        start = self._start()
        return start.startswith(b"RIFF") and self.file.seek(0, 2) < 8 + int.from_bytes(start[4:8], "little")

    def _start(self) -> bytes:
        try:
            self.file.seek(0)
            return self.file.read(16)
        except (OSError, ValueError):
            return b""


def _too_many(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} megapixels, more than the limit of {MAX_PIXELS / 1e6:.0f}"


def _bands_of(file: BinaryIO) -> str:
    """Describe a TIFF that Pillow cannot open, if its tags are intact: satellite pictures have many bands."""
    try:
        file.seek(0)
        start = file.read(16)
        tags = TiffImagePlugin.ImageFileDirectory_v2(start if 43 in start[2:4] else start[:8])
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags[277]), int(tags[258][0])
    except Exception:  # a damaged one
        return "truncated or damaged TIFF header"
    kind = f"TIFF of {bands} bands of {bits} bits"
    return f"{kind} that Pillow cannot read" if bands in (1, 3, 4) else f"{kind}; a picture has 1, 3 or 4"


def _scans(file: BinaryIO) -> int:
    """Count the start-of-scan markers of a JPEG; inside entropy-coded data the byte pair cannot occur."""
    position = file.tell()
    file.seek(0)
    count = 0
    while chunk := file.read(1 << 20):
        count += chunk.count(b"\xff\xda")
    file.seek(position)
    return count


def _orientation(image: Image.Image) -> int:
    # After load(): a PNG may carry EXIF behind its pixels, and Pillow has turned a TIFF by then and dropped the tag.
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged metadata does not spoil the pixels
        return 1


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    rows = max(1, _BAND_PIXELS // max(1, width))
    for top in range(0, height, rows):
        yield (0, top, width, min(height, top + rows))


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else _range(image)
    key = image.info.get("transparency")  # of a 16-bit grey PNG: the one value that is transparent
    out = Image.new("L", image.size)
    for box in _bands(image.size):
        values = np.asarray(image.crop(box), dtype=np.float64)
        grey = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
        if isinstance(key, int):
            grey[values == key] = 255
        out.paste(Image.fromarray(grey), box)
    return out.convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for box in _bands(image.size):
        values = np.asarray(image.crop(box))
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:  # not one finite value
        return 0.0, 1.0
    if low >= 0:
        if high <= 1 and image.mode == "F":
            return 0.0, 1.0
        if high <= 255 and image.format != "PNG":  # a grey PNG of mode I has 16 bits, however dark it is
            return 0.0, 255.0
        if high <= 65535:
            return 0.0, 65535.0
    return low, max(high, low + 1e-6)
