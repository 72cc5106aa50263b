"""Pictures, archives and shards of a few bytes, and the names under which a source gives them."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from vitreg.data import ImageSource


def picture(level: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (level, level, level)).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(level))
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def levels(source: ImageSource) -> list[int]:
    return [item.open().getpixel((0, 0))[0] for item in source]


def names(source: ImageSource, root: Path) -> list[str]:
    return [os.path.relpath(item.name, root) for item in source]
