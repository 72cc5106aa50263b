"""One test for each decoding rule, on small real files."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vitreg.data import ImageSource, Unreadable
from vitreg.data.sources.decode import decode, to_rgb


@pytest.fixture
def picture() -> Image.Image:
    """48 wide, 32 high: smooth, so that lossy formats stay close."""
    rows, cols = np.mgrid[:32, :48]
    return Image.fromarray(np.stack([rows * 8, cols * 5, 255 - rows * 4], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: bytes, min_side: int = 1) -> Image.Image:
    return decode(io.BytesIO(data), lambda image: image, min_side=min_side)


def reason(data: bytes, min_side: int = 1) -> str:
    with pytest.raises(Unreadable) as error:
        read(data, min_side)
    return error.value.reason


def png(width: int, height: int, depth: int, colour: int, data: bytes = b"") -> bytes:
    """A PNG with any header, written by hand."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_ordinary_formats_give_the_picture(picture, kind):
    got = read(encoded(picture, kind))
    assert got.mode == "RGB"
    assert got.size == (48, 32)
    assert np.abs(np.asarray(got, int) - np.asarray(picture, int)).mean() < 4


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {})])
def test_a_truncated_file_is_named_so(picture, kind, options):
    data = encoded(picture, kind, **options)
    assert reason(data[: len(data) * 2 // 3]) == "truncated file"


def test_a_truncated_tiff_is_refused(picture):
    data = encoded(picture, "TIFF", compression="tiff_lzw")
    assert "truncated" in reason(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"hello, this is a text and nothing else", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # would run Ghostscript
        (b"\xff\xd8\xff\xe0", "truncated or damaged JPEG header"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC image: Pillow reads it with the pillow-heif plugin only"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, expected):
    assert reason(data) == expected


def test_a_picture_that_fits_into_a_patch_is_refused():
    assert reason(encoded(Image.new("RGB", (1, 1)), "PNG"), 16) == "1x1 px is smaller than one patch (16 px)"
    assert reason(encoded(Image.new("RGB", (15, 3)), "PNG"), 16) == "15x3 px is smaller than one patch (16 px)"
    assert read(encoded(Image.new("RGB", (16, 16)), "PNG"), 16).size == (16, 16)


def test_a_very_wide_picture_is_read():
    assert read(encoded(Image.new("RGB", (20000, 10), "red"), "PNG"), 16).size == (20000, 10)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_print_and_video_colours_become_rgb(picture, mode):
    got = read(encoded(picture.convert(mode), "JPEG", quality=95))
    assert np.abs(np.asarray(got, int) - np.asarray(picture, int)).mean() < 4


def test_lab_becomes_rgb(picture):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(picture, to_lab)
    assert lab is not None
    got = read(encoded(lab, "TIFF"))
    assert np.abs(np.asarray(got, int) - np.asarray(picture, int)).mean() < 4


def test_16_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], np.uint16)
    expected = [0, 100, 200, 255]
    for data in (
        encoded(Image.fromarray(values), "PNG"),
        encoded(Image.fromarray(values), "TIFF"),
        encoded(Image.fromarray(values.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(values.astype(np.float32)), "TIFF"),
    ):
        assert np.asarray(read(data))[0, :, 0].tolist() == expected
    big_endian = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    assert np.asarray(to_rgb(big_endian))[0, :, 1].tolist() == expected


def test_dark_16_bit_grey_stays_dark():
    values = np.full((4, 4), 200, np.uint16)
    assert np.asarray(read(encoded(Image.fromarray(values), "PNG"))).max() == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-np.inf, 0.0, np.inf], [0, 0, 255]),
    ],
)
def test_float_pictures_are_read_in_the_range_they_have(values, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(to_rgb(Image.fromarray(np.array([values], np.float32))))[0, :, 2].tolist() == expected


def test_16_bit_colour_is_read():
    row = b"\0" + struct.pack(">6H", 0, 65535, 257 * 128, 257 * 10, 0, 65535)
    assert np.asarray(read(png(2, 1, 16, 2, row))).tolist() == [[[0, 255, 128], [10, 0, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_lies_on_white(mode):
    clear = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    clear.putpixel((2, 0), (0, 0, 0, 128))
    got = np.asarray(to_rgb(clear.convert(mode)))[0, :, 0]
    assert got[:2].tolist() == [0, 255]
    assert abs(int(got[2]) - 127) <= 1


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for kind in ("GIF", "PNG"):
        got = read(encoded(image, kind, transparency=1))
        assert [got.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]
    opaque = read(encoded(image, "PNG"))
    assert [opaque.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 100, 50)]


def test_a_transparent_grey_level_is_white():
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 9)
    assert np.asarray(read(encoded(grey, "PNG", transparency=9)))[0, :, 0].tolist() == [7, 255]


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        got = read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        red, green, blue = got.getpixel((10, 10))
        assert (red > 240, green < 20, blue < 20) == (True, True, True), kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, orientation):
    """The stored pixels are turned so that the tag turns them back: every reader must show the same picture."""
    stored = {
        1: picture,
        2: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: picture.transpose(Image.Transpose.ROTATE_180),
        4: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: picture.transpose(Image.Transpose.TRANSPOSE),
        6: picture.transpose(Image.Transpose.ROTATE_90),
        7: picture.transpose(Image.Transpose.TRANSVERSE),
        8: picture.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})):
        got = read(encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options))
        assert got.size == (48, 32), kind
        assert got.getexif().get(0x0112, 1) == 1 or orientation == 1
        assert np.abs(np.asarray(got, int) - np.asarray(picture, int)).mean() < 3, kind


def test_damaged_metadata_does_not_spoil_the_picture(picture):
    got = read(encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40))
    assert got.size == (48, 32)


@pytest.mark.parametrize("limit", [None, 89_478_485])
def test_a_decompression_bomb_is_refused_whatever_pillows_limit(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert reason(png(65000, 65000, 8, 2)) == "4225 megapixels, more than the limit of 179"
    assert reason(png(2**31 - 1, 2**31 - 1, 8, 2)).endswith("more than the limit of 179")


def test_a_large_picture_gives_no_warning():
    """Between 89 and 179 megapixels Pillow warns; here the picture is read, and its header alone is no picture."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert reason(png(10_000, 10_000, 1, 0)) == "truncated file"
    assert not caught


def test_a_jpeg_that_repeats_its_scans_is_refused(picture):
    """Each scan of a few bytes visits every block of the picture, which would take minutes."""
    data = encoded(picture.resize((1000, 1000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert reason(data[:last] + data[last:-2] * 20_000 + b"\xff\xd9") == "JPEG with too many scans"


def test_a_file_that_cannot_be_opened_has_a_reason(tmp_path: Path):
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "real.png").write_bytes(png(1, 1, 8, 0, b"\0\0"))
    reasons = {}
    for item in ImageSource([tmp_path]):
        try:
            item.open()
        except Unreadable as error:
            reasons[Path(item.name).name] = error.reason
    assert reasons == {"gone.png": "no such file", "loop.png": "too many levels of symbolic links"}


def test_errors_of_what_is_done_with_the_picture_pass(picture):
    def broken(image: Image.Image) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decode(io.BytesIO(encoded(picture, "PNG")), broken)


def tiff(bands: int, bits: int, big: bool = False) -> bytes:
    """An intact TIFF of any number of bands, as satellites and microscopes have them, written by hand."""
    width, height = 20, 16
    data = bytes(width * height * bands * bits // 8)
    head, entry = (16, "<HHQQ") if big else (8, "<HHII")
    tags: list[tuple[int, int, int, int | None]] = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, None), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, None),
        (277, 3, 1, bands), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    behind = head + (8 if big else 2) + struct.calcsize(entry) * len(tags) + (8 if big else 4)
    depths = struct.pack(f"<{bands}H", *[bits] * bands)
    inside = int.from_bytes(depths, "little") if len(depths) <= (8 if big else 4) else behind
    places = {258: inside, 273: behind + len(depths)}
    directory = b"".join(
        struct.pack(entry, tag, kind, count, places[tag] if value is None else value)
        for tag, kind, count, value in tags
    )
    start = (
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)) if big else b"II*\0" + struct.pack("<IH", 8, len(tags))
    )
    return start + directory + bytes(8 if big else 4) + depths + data


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("bands", "bits"), [(5, 8), (8, 16), (12, 16), (13, 32)])
def test_an_intact_tiff_of_many_bands_is_not_called_damaged(bands, bits, big):
    assert reason(tiff(bands, bits, big)) == f"TIFF of {bands} bands of {bits} bits; a picture has 1, 3 or 4"
    assert reason(tiff(3, 32, big)) == "TIFF of 3 bands of 32 bits that Pillow cannot read"
    assert reason(tiff(bands, bits, big)[:60]) == "truncated or damaged TIFF header"
    assert read(tiff(1, 8, big)).size == (20, 16)
