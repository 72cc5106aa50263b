"""Five hundred damaged image files: each is decoded or has a reason, and none crashes, hangs or eats the memory.

They are read in another process, where a crash of a decoder written in C is seen and a hang is ended.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tests.patience import PATIENCE

FILES = 500
SECONDS_PER_FILE = 20  # each takes milliseconds; the machine may be busy

# Prints, by file name, what came of it and by how many kB the peak of the memory rose.
READER = """
import faulthandler, json, resource, sys
from pathlib import Path
from vitreg.data import IMAGENET, ImageSource, Unreadable

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

found = {}
for item in ImageSource([sys.argv[1]]):
    before = peak()
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    try:
        outcome = list(item.reduce(IMAGENET.pixels).shape)
    except Unreadable as error:
        outcome = error.reason
    faulthandler.cancel_dump_traceback_later()
    found[Path(item.name).name] = (outcome, peak() - before)
json.dump(found, sys.stdout)
"""

Outcome = str | list[int]  # the reason, or the shape of the picture


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, tuple[Outcome, int]]:
    """All files of this module, read in one process. The headers come first, while the peak of the memory is low."""
    folder = tmp_path_factory.mktemp("fuzz")
    for side in (65000, 13000):
        for kind, data in promising(side, side).items():
            (folder / f"000-{side}.{kind}").write_bytes(data)
    for name, data in damaged_files():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", READER, str(folder), str(SECONDS_PER_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""  # neither Pillow nor the libraries below it speak to the terminal
    return json.loads(done.stdout)


def seeds() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    rows, cols = np.mgrid[:36, :48]
    pixels = np.stack([rows * 7, cols * 5, rng.integers(0, 256, rows.shape)], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[str, str, Image.Image, dict]] = [
        ("baseline.jpg", "JPEG", image, {"exif": exif}),
        ("progressive.jpg", "JPEG", image, {"progressive": True}),
        ("cmyk.jpg", "JPEG", image.convert("CMYK"), {}),
        ("colour.png", "PNG", image, {}),
        ("palette.png", "PNG", image.quantize(16), {"transparency": 3}),
        ("deep.png", "PNG", Image.fromarray(pixels[..., 2].astype(np.uint16) * 257), {}),
        ("still.gif", "GIF", image.quantize(32), {}),
        ("moving.gif", "GIF", image, {"save_all": True, "append_images": [image.rotate(90)]}),
        ("colour.bmp", "BMP", image, {}),
        ("palette.bmp", "BMP", image.quantize(256), {}),
        ("plain.tif", "TIFF", image, {}),
        ("lzw.tif", "TIFF", image, {"compression": "tiff_lzw"}),
        ("fax.tif", "TIFF", image.convert("1"), {"compression": "group4"}),
        ("jpeg.tif", "TIFF", image, {"compression": "jpeg"}),
        ("lossy.webp", "WEBP", image, {}),
        ("alpha.webp", "WEBP", image.convert("RGBA"), {"lossless": True}),
    ]
    encoded = {}
    for name, kind, variant, options in variants:
        buffer = io.BytesIO()
        variant.save(buffer, kind, **options)
        encoded[name] = buffer.getvalue()
    return encoded


def mutate(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    if how == "bits":
        for place in rng.integers(0, len(damaged), rng.integers(1, 20)):
            damaged[place] ^= 1 << int(rng.integers(8))
    elif how == "header":
        for place in rng.integers(0, min(100, len(damaged)), rng.integers(1, 6)):
            damaged[place] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    elif how == "cut":
        del damaged[rng.integers(0, len(damaged)) :]
    elif how == "hole":
        start = int(rng.integers(0, len(damaged)))
        del damaged[start : start + int(rng.integers(1, 200))]
    elif how == "noise":
        start = int(rng.integers(0, len(damaged)))
        damaged[start:] = rng.bytes(len(damaged) - start)
    else:
        damaged[:] = rng.bytes(int(rng.integers(0, 2000)))
    return bytes(damaged)


def damaged_files() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2)
    originals = list(seeds().items())
    for i in range(FILES):
        name, data = originals[i % len(originals)]
        how = ("bits", "header", "cut", "hole", "noise", "random")[
            int(rng.choice(6, p=[0.3, 0.3, 0.1, 0.1, 0.15, 0.05]))
        ]
        yield f"{i + 1:03d}-{how}-{name}", mutate(data, how, rng)


def test_damaged_files_are_decoded_or_have_a_reason(found):
    outcomes = {name: outcome for name, (outcome, _) in found.items() if not name.startswith("000-")}
    assert len(outcomes) == FILES
    decoded = [outcome for outcome in outcomes.values() if outcome == [224, 224, 3]]
    reasons = [outcome for outcome in outcomes.values() if isinstance(outcome, str)]
    assert len(decoded) + len(reasons) == FILES
    assert all(reason and len(reason) < 150 and "\n" not in reason for reason in reasons)
    # The mutations reach the decoders: some files survive, many do not, and for many different causes.
    assert 0.1 < len(decoded) / FILES < 0.7
    assert len(set(reasons)) > 10


def test_damaged_files_do_not_eat_the_memory(found):
    """One picture at the limit of pixels would be 720 MB."""
    assert sum(grown for _, grown in found.values()) < 700_000


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def promising(width: int, height: int) -> dict[str, bytes]:
    """Files of a few bytes whose headers promise a picture of any size."""
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    gif = b"GIF89a" + struct.pack("<HH", width, height) + b"\xf0\0\0\0\0\0\xff\xff\xff"
    gif += b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x44\x01\0;"
    bmp = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(300)
    entries = ((256, width), (257, height), (258, 8), (259, 5), (262, 1), (273, 8), (277, 1), (278, height), (279, 200))
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(300)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    jpeg = bytearray(buffer.getvalue())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    ppm = b"P6 %d %d 255\n" % (width, height) + bytes(300)
    return {"png": png, "gif": gif, "bmp": bmp, "tif": tiff, "jpg": bytes(jpeg), "ppm": ppm}


@pytest.mark.parametrize(
    ("side", "words"), [(65000, ("megapixels",)), (13000, ("truncated", "damaged", "bytes cannot hold"))]
)
def test_a_header_that_promises_a_huge_picture_is_refused(found, side, words):
    """Above the limit it is refused unread; below, what has not been filled must not have been touched."""
    of_side = {name: seen for name, seen in found.items() if name.startswith(f"000-{side}")}
    assert len(of_side) == 6
    for name, (outcome, grown) in of_side.items():
        assert isinstance(outcome, str), name
        assert any(word in outcome for word in words), (name, outcome)
        assert grown < 250_000, name
