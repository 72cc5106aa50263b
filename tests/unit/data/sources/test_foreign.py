"""Files made to hang a reader or to fill the memory: each gives its images or a reason, within a gigabyte.

They are read in another process, whose memory ends where the promise does. Holes in files stand for their gigabytes.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

GIGABYTE = 1 << 30
SECONDS_PER_FILE = 60  # each takes a second or two; the machine may be busy

# Prints, by file name, what came of its images and of a training set made of it.
READER = """
import faulthandler, json, os, resource, sys
from pathlib import Path
from vitreg.data import ImageSource, Unreadable
from vitreg.data.sources.archives import is_archive
from vitreg.data.sets.shards import ShardSet
from vitreg.errors import UserError
import webdataset.gopen, vitreg.data.sources.decode, PIL.Image
PIL.Image.init()

used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)

def images(where):
    outcomes = []
    try:
        for item in ImageSource([where]):
            try:
                outcomes.append(list(item.reduce(lambda image: image.size)))
            except Unreadable as error:
                outcomes.append(error.reason)
    except UserError as error:
        return str(error)
    return outcomes

def training(where):
    try:
        data = ShardSet([where], captions=False, cache=Path(sys.argv[1]))
        outcomes = [*data.notes]
        for index in range(len(data)):
            try:
                outcomes.append(list(data.read(index).image.size))
            except Unreadable as error:
                outcomes.append(error.reason)
        return outcomes
    except UserError as error:
        return str(error)

found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    found[path.name] = [images(str(path))]
    if path.suffix == ".tar":
        found[path.name] += [training(str(path)), images(f"pipe:cat {path}")]
    faulthandler.cancel_dump_traceback_later()
json.dump(found, sys.stdout)
"""


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    return buffer.getvalue()


def header(name: str, size: int, kind: bytes = b"0", field: bytes | None = None) -> bytes:
    """One header of a tar archive with a true checksum; `field` replaces the twelve bytes of the size."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = b"%011o\0" % size if field is None else field
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


FIRST = member("0.png", picture()) + member("0.cls", b"0")
END = bytes(1024)


def with_holes(path: Path, pieces: list[bytes | int]) -> None:
    """Write bytes, and holes of so many bytes."""
    with path.open("wb") as file:
        for piece in pieces:
            if isinstance(piece, int):
                file.seek(piece, 1)
            else:
                file.write(piece)
        file.truncate()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(name: bytes, body: bytes) -> bytes:
    """A PNG with a chunk of its own behind its header."""
    png = picture()
    return png[:33] + chunk(name, body) + png[33:]


def negative_size(path: Path) -> None:
    path.write_bytes(FIRST + header("1.png", 0, field=(-512).to_bytes(12, "big", signed=True)) + END)


def negative_octal(path: Path) -> None:
    path.write_bytes(FIRST + header("1.png", 0, field=b"-0000001000\0") + END)


def long_name(path: Path) -> None:
    with_holes(
        path, [FIRST, header("././@LongLink", 0, b"L", b"\x80" + (5 * GIGABYTE).to_bytes(11, "big")), 5 * GIGABYTE]
    )


def long_pax(path: Path) -> None:
    size = b"\x80" + (5 * GIGABYTE).to_bytes(11, "big")
    with_holes(path, [FIRST, header("pax", 0, b"x", size), 5 * GIGABYTE, END])


def pax_size_of_digits(path: Path) -> None:
    value = b"9" * 5000
    length = len(value) + len(b"5011 size=\n")
    path.write_bytes(FIRST + member("pax", b"%d size=%s\n" % (length, value), b"x") + header("1.png", 0) + END)


def twelve_of_150_mb(path: Path) -> None:
    pieces: list[bytes | int] = [FIRST]
    for number in range(12):
        pieces += [header(f"1.{number}.png", 150 << 20), 150 << 20]
    with_holes(path, [*pieces, member("2.png", picture()), END])


def sparse(path: Path) -> None:
    """A header of GNU's old kind whose map of holes goes on in two further blocks."""
    block = bytearray(header("1.png", 512, b"S"))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytearray(512)
    more[504] = 1
    path.write_bytes(FIRST + bytes(block) + bytes(more) + bytes(512) + bytes(512) + member("2.png", picture()) + END)


def class_number(path: Path) -> None:
    path.write_bytes(FIRST + member("1.png", picture()) + member("1.cls", b"9" * 12) + END)


def class_digits(path: Path) -> None:
    path.write_bytes(FIRST + member("1.png", picture()) + member("1.cls", b"9" * 9000) + END)


def deep_json(path: Path) -> None:
    path.write_bytes(FIRST + member("1.png", picture()) + member("1.json", b"[" * 500_000) + END)


def gzip_bomb(path: Path) -> None:
    """Three gigabytes of one member, as gzip streams behind one another."""
    first = gzip.compress(FIRST + header("1.png", 3 * GIGABYTE))
    path.write_bytes(first + gzip.compress(bytes(1 << 24)) * 192)


def xz_dictionary(path: Path) -> None:
    """The header says that unpacking takes a dictionary of four gigabytes."""
    data = bytearray(lzma.compress(FIRST + END, preset=0))
    size = (data[12] + 1) * 4
    place = data.index(b"\x21\x01", 12, 12 + size)
    data[place + 2] = 40
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(data[12 : 12 + size - 4]))
    path.write_bytes(data)


@functools.cache
def bomb() -> bytes:
    """One and a half gigabytes of zeros, packed by zlib: blocks that know nothing of each other, so one is repeated."""
    packer = zlib.compressobj(1, wbits=-15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 96 * (1 << 24) % 65521 << 16 | 1  # Adler's, of zeros
    return b"\x78\x01" + block * 96 + packer.flush() + struct.pack(">I", checksum)


def zip_that_lies(path: Path) -> None:
    """One and a half gigabytes that claim to be a thousand bytes."""
    data = bomb()[2:-4]  # deflated, without zlib's frame
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.png", picture())
        archive.writestr("1.png", data)
    content = bytearray(path.read_bytes())
    for mark, method, size in ((b"PK\3\4", 8, 22), (b"PK\1\2", 10, 24)):
        place = content.rindex(mark) if mark == b"PK\1\2" else content.index(mark, 10)
        content[place + method : place + method + 2] = struct.pack("<H", 8)
        content[place + size : place + size + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)


def zip_of_bzip2(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("0.png", bytes(1 << 20))


def zip_directory(path: Path) -> None:
    """Says that its directory has three gigabytes, and has room for them."""
    with_holes(path, [3 * GIGABYTE, b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 3 * GIGABYTE, 0, 0)])


def png_profile(path: Path) -> None:
    with_holes(path, [picture()[:33] + struct.pack(">I", 0x7FFFFFF0) + b"iCCP", 0x7FFFFFF0])


def png_packed_text(path: Path) -> None:
    path.write_bytes(with_chunk(b"zTXt", b"a\0\0" + bomb()))


def png_packed_profile(path: Path) -> None:
    path.write_bytes(with_chunk(b"iCCP", b"a\0\0" + bomb()))


def huge_webp(path: Path) -> None:
    with_holes(path, [b"RIFF" + struct.pack("<I", 3 * GIGABYTE) + b"WEBPVP8 ", 3 * GIGABYTE])


OK = [20, 10]
Expected = list[object] | str
CASES: dict[str, tuple[Callable[[Path], None], Expected, Expected | None]] = {
    "negative.tar": (negative_size, [OK, "damaged archive (is damaged)"], ["is damaged; 1 samples", OK]),
    "octal.tar": (negative_octal, [OK, "damaged archive (is damaged)"], ["is damaged; 1 samples", OK]),
    "name.tar": (long_name, [OK, "has a name of 5368709120 bytes"], ["has a name of 5368709120 bytes", OK]),
    "pax.tar": (long_pax, [OK, "has a header of 5368709120 bytes"], ["has a header of 5368709120 bytes", OK]),
    "digits.tar": (pax_size_of_digits, [OK, "is damaged"], ["is damaged", OK]),
    "sparse.tar": (sparse, [OK, "sparse member", OK], ["1 sparse members", "1 of 2 samples", OK]),
    "number.tar": (class_number, [OK, OK], "class number 999999999999"),
    "manydigits.tar": (class_digits, [OK, OK], ["1 of 2 samples in the shards have no class", OK]),
    "json.tar": (deep_json, [OK, OK], ["1 of 2 samples in the shards have no class", OK]),
    "bomb.tgz": (gzip_bomb, [OK, "3221 MB in an archive, more than", "unpacks to more than 100 times its size"], None),
    "dictionary.tar.xz": (xz_dictionary, ["damaged archive"], None),
    "lies.zip": (zip_that_lies, [OK, "not an image|damaged|CRC"], None),
    "bzip2.zip": (zip_of_bzip2, ["neither stored nor deflated"], None),
    "directory.zip": (zip_directory, ["a directory of more than 134 MB"], None),
    "profile.png": (png_profile, ["2147 MB, more than the limit of 805"], None),
    "text.png": (png_packed_text, ["Decompressed data too large|damaged|20"], None),
    "packed.png": (png_packed_profile, ["Decompressed data too large|damaged|20"], None),
    "huge.webp": (huge_webp, ["3221 MB, more than the limit of 805"], None),
}


def read(folder: Path) -> dict[str, list]:
    """Return what a process that may have one more gigabyte says of each file of a folder."""
    pytest.importorskip("webdataset")
    command = [sys.executable, "-c", READER, str(folder), str(SECONDS_PER_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("foreign")
    for name, (make, _, _) in CASES.items():
        make(folder / name)
    return read(folder)


def matches(got: Expected, expected: Expected) -> bool:
    if isinstance(expected, str):
        return isinstance(got, str) and any(words in got for words in expected.split("|"))
    if not isinstance(got, list) or len(got) != len(expected):
        return False
    return all(g == e if isinstance(e, list) else matches(str(g), e) for g, e in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_file_made_to_hang_or_to_fill_the_memory_gives_its_images_and_a_reason(found, name):
    _, images, training = CASES[name]
    assert matches(found[name][0], images), found[name]
    if training is not None:
        assert matches(found[name][1], training), found[name]
        assert matches(found[name][2], images), found[name]  # streamed


@pytest.mark.slow
def test_of_twelve_large_members_under_one_key_no_more_than_the_limit_is_held(tmp_path):
    twelve_of_150_mb(tmp_path / "twelve.tar")
    plain, training, streamed = read(tmp_path)["twelve.tar"]
    assert plain == [OK, *["not an image"] * 12, OK]
    assert training[-1] == OK
    assert streamed[0] == streamed[-1] == OK
    assert all("157 MB in an archive, more than the limit of 134" in reason for reason in streamed[1:-1])
