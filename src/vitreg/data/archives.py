"""Images inside zip and tar archives and WebDataset shards, read without extracting anything.

Zip and plain tar are read at any place, compressed tar and shards behind a URL only from front to back.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import tarfile
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vitreg.data.decode import EXTENSIONS, Unreadable
from vitreg.data.parts import Failed, Held, Listed, Locator, Part, label, os_reason
from vitreg.errors import UserError

# What is read from an archive lies in memory as a whole; a header may promise anything.
MAX_MEMBER_BYTES = 1 << 29
_SAMPLE_MEMBERS = 32
_URL = re.compile(r"(https?://|pipe:|gs://|hf://|ais://|sftp://)")
_PREFERENCE = (".jpg", ".jpeg", ".webp", ".png")


@dataclass(frozen=True, slots=True)
class InTar:
    """A member of a tar archive that is not compressed: a stretch of bytes of a file."""

    name: str
    archive: str
    offset: int
    size: int

    def file(self) -> BinaryIO:
        """Read the member. Raises Unreadable."""
        if self.size > MAX_MEMBER_BYTES:
            raise Unreadable(_too_big(self.size))
        try:
            with open(self.archive, "rb") as archive:
                archive.seek(self.offset)
                data = archive.read(self.size)
        except OSError as error:
            raise Unreadable(os_reason(error)) from error
        if len(data) < self.size:
            raise Unreadable("truncated file")
        return io.BytesIO(data)


class OpenZip:
    """A zip archive that stays open, and is opened anew in a forked process: it would move its parent's place in the file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened = (os.getpid(), zipfile.ZipFile(path))

    def members(self) -> list[zipfile.ZipInfo]:
        """List what is in it."""
        return self._opened[1].infolist()

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """Return the bytes of a member; several threads may ask."""
        process, archive = self._opened
        if process != os.getpid():
            archive = zipfile.ZipFile(self.path)
            self._opened = (os.getpid(), archive)
        return archive.read(member)


@dataclass(frozen=True, slots=True)
class InZip:
    """A member of a zip archive."""

    name: str
    archive: OpenZip
    member: zipfile.ZipInfo

    def file(self) -> BinaryIO:
        """Read the member. Raises Unreadable."""
        if self.member.file_size > MAX_MEMBER_BYTES:
            raise Unreadable(_too_big(self.member.file_size))
        if self.member.flag_bits & 1:
            raise Unreadable("encrypted in the archive")
        try:
            return io.BytesIO(self.archive.read(self.member))
        except Exception as error:  # a damaged archive makes zipfile and zlib raise nearly anything
            raise Unreadable(_damaged(error)) from error


class Streamed:
    """A compressed tar, or a shard behind a URL: read from front to back, its images held in memory as they pass.

    Raises:
        UserError: for a URL where the webdataset package is missing.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.names: list[str] | None = None
        if is_url(where):
            try:
                import webdataset  # noqa: F401
            except ImportError:
                raise UserError(f"'{where}' needs the webdataset package: pip install 'vitreg[scale]'.") from None
            return
        names: list[str] = []
        try:
            names.extend(image.name for image in self._images(read=False))
        except Exception:  # said when the image is asked for
            names.append(label(where))
        self.names = names

    @property
    def length(self) -> int | None:
        """How many images; None for a URL."""
        return None if self.names is None else len(self.names)

    def locate(self, index: int) -> Locator:
        """Return one image by reading up to it. Raises TypeError for a URL, IndexError beyond the end."""
        if self.names is None:
            raise TypeError(f"{self.where} is a stream: its images come in order only")
        with closing(self.walk(index, len(self.names))) as images:
            for _, image in images:
                return image
        raise IndexError(index)

    def walk(self, first: int, step: int) -> Generator[tuple[int, Locator], None, None]:
        """Yield (index, image) from `first` on in steps of `step`, reading over the others.

        Where the archive is damaged or ends too early, the images listed after that place are unreadable; a URL gives
        one such image, which stands for the rest.
        """
        index, reason = -1, "damaged archive"
        try:
            with closing(self._images(read=True)) as images:
                for index, image in enumerate(images):
                    if self.names is not None and index >= len(self.names):
                        return
                    if index >= first and (index - first) % step == 0:
                        yield index, image
            missing = self.names[index + 1 :] if self.names is not None else []
        except Exception as error:  # of the network, of the command of a pipe:, of gzip, of tarfile
            reason = _damaged(error)
            missing = self.names[index + 1 :] if self.names is not None else [label(self.where)]
        for index, name in enumerate(missing, start=index + 1):  # noqa: B020
            if index >= first and (index - first) % step == 0:
                yield index, Failed(name, reason)

    def _images(self, *, read: bool) -> Generator[Locator, None, None]:
        file: Any = None  # an open file, or the Pipe of webdataset
        try:
            if is_url(self.where):
                from webdataset.gopen import gopen

                file = gopen(self.where)
            else:
                file = open(self.where, "rb")  # noqa: SIM115  closed below
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for sample in _samples(tar):
                    # Which image of a sample counts is known at its end only, and a stream cannot go back: hold them.
                    held: dict[str, Locator] = {}
                    names = []
                    for info in sample:
                        names.append(info.name)
                        if _is_image(info.name):
                            held[info.name] = self._held(tar, info, read=read)
                    yield from (held[name] for name in _images_of(names))
        finally:
            _close(file)

    def _held(self, tar: tarfile.TarFile, info: tarfile.TarInfo, *, read: bool) -> Locator:
        name = label(f"{self.where}/{info.name}")
        if info.size > MAX_MEMBER_BYTES:
            return Failed(name, _too_big(info.size))
        member = tar.extractfile(info) if read else None
        return Held(name, member.read() if member else b"")


def open_archive(path: Path) -> Part:
    """List the images of a zip or tar archive; a damaged one gives what can be listed, then one unreadable image."""
    if path.suffix.lower() == ".zip":
        return Listed(_list_zip(path))
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115  closed below
    except Exception:  # compressed, empty or damaged
        return Streamed(str(path))
    with tar:
        return Listed(list(_list_tar(tar, path)))


def is_archive(name: str) -> bool:
    """Say whether a file name is that of an archive read here."""
    name = name.lower()
    return name.endswith((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"))


def is_url(where: str) -> bool:
    """Say whether this is a place that the webdataset package opens, `pipe:` with a command included."""
    return _URL.match(where) is not None


def _list_zip(path: Path) -> list[Locator]:
    try:
        archive = OpenZip(str(path))  # stays open as long as the images are
        members = [info for info in archive.members() if not info.is_dir() and _is_image(info.filename)]
    except Exception as error:
        return [Failed(label(str(path)), _damaged(error))]
    return [InZip(label(f"{path}/{info.filename}"), archive, info) for info in members]


def _list_tar(tar: tarfile.TarFile, path: Path) -> Iterator[Locator]:
    try:
        for sample in _samples(tar):
            members = {info.name: info for info in sample}
            for name in _images_of(list(members)):
                info = members[name]
                if info.issparse():
                    yield Failed(label(f"{path}/{name}"), "sparse member of an archive")
                else:
                    yield InTar(label(f"{path}/{name}"), str(path), info.offset_data, info.size)
    except Exception as error:
        yield Failed(label(str(path)), _damaged(error))


def _samples(tar: tarfile.TarFile) -> Iterator[Iterator[tarfile.TarInfo]]:
    """Group neighbouring members by their WebDataset key: the path up to the first dot of the file name."""

    def keyed() -> Iterator[tuple[tuple[str, int], tarfile.TarInfo]]:
        key, count = "", 0
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else every header read so far stays in memory
            if not info.isreg():
                continue
            key, count = (key, count + 1) if _key(info.name)[0] == key else (_key(info.name)[0], 0)
            # In an archive of IMG.0001.jpg, IMG.0002.jpg, ... all share a key: cut, for a stream holds a whole sample.
            yield (key, count // _SAMPLE_MEMBERS), info

    return ((info for _, info in sample) for _, sample in itertools.groupby(keyed(), lambda pair: pair[0]))


def _images_of(names: Sequence[str]) -> list[str]:
    """Choose the images among the members of one WebDataset sample.

    Where there are `0001.jpg`, `0001.seg.png` and `0001.cls`, the image is `0001.jpg`; in an archive of photographs
    that merely share a key (`2020.01.jpg`, `2020.02.jpg`) all of them are images.
    """
    plain = [name for name in names if _is_image(name) and _key(name)[1] in EXTENSIONS]
    if plain and len(plain) < len(names):
        order = {extension: i for i, extension in enumerate(_PREFERENCE)}
        return [min(plain, key=lambda name: order.get(_key(name)[1], len(order)))]
    return [name for name in dict.fromkeys(names) if _is_image(name)]


def _key(name: str) -> tuple[str, str]:
    folder, _, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return f"{folder}/{stem}", (dot + extension).lower()


def _is_image(member: str) -> bool:
    path = PurePosixPath(member)
    hidden = any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden


def _too_big(size: int) -> str:
    return f"{size / 1e6:.0f} MB in an archive, more than the limit of {MAX_MEMBER_BYTES / 1e6:.0f}"


def _damaged(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os_reason(error)
    detail = " ".join(str(error).split())[:120]
    return f"damaged archive ({detail})" if detail else "damaged archive"


def _close(file: Any) -> None:
    if file is None:
        return
    # The command behind a pipe: may still wait for something when we stop early, and closing would wait for it.
    process = getattr(file, "proc", None)
    if process is not None and process.poll() is None:
        process.kill()
    with suppress(Exception):  # webdataset reports the killed command as an error
        file.close()
