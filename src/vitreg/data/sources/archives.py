"""Images inside zip and tar archives and WebDataset shards, read without extracting anything.

Zip and plain tar are read at any place, compressed tar and shards behind a URL only from front to back.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vitreg.data.sources.decode import EXTENSIONS
from vitreg.data.sources.members import InTar, InZip, OpenZip, damaged, too_big
from vitreg.data.sources.parts import Failed, Held, Listed, Locator, Part, label, os_reason
from vitreg.data.sources.tar import Forward, Member, NoEndMark, packing, walk_tar
from vitreg.errors import UserError

# The images of a sample of a stream are in memory together, and a thread may decode one of another sample meanwhile.
MAX_STREAMED_BYTES = 1 << 27
_SAMPLE_MEMBERS = 32
_SPARSE = "sparse member of an archive"
_URL = re.compile(r"(https?://|pipe:|gs://|hf://|ais://|sftp://)")
_PREFERENCE = (".jpg", ".jpeg", ".webp", ".png")


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
                import webdataset  # noqa: F401  # pyright: ignore[reportUnusedImport]
            except ImportError:
                raise UserError(f"'{where}' needs the webdataset package: pip install 'vitreg[scale]'.") from None
            return
        names: list[str] = []
        try:
            names.extend(image.name for image in self._images(read=False))
        except Exception:  # reported when the image is read
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
        """Yield (index, image) from `first` on in steps of `step`, skipping the others.

        After damage or a premature end, the remaining listed images are unreadable; a URL gives one unreadable image
        for all of them.
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
            reason = damaged(error)
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
            stream = Forward(file.read)
            for sample in _samples(walk_tar(stream)):
                # Only the end of a sample shows which of its images counts, and a stream cannot go back: keep them.
                held: dict[str, Locator] = {}
                names, room = [], MAX_STREAMED_BYTES
                for member in sample:
                    names.append(member.name)
                    if _is_image(member.name):
                        held[member.name] = self._held(stream, member, room, read=read)
                        room -= member.size if member.size <= room else 0
                yield from (held[name] for name in _images_of(names))
        finally:
            _close(file)

    def _held(self, stream: Forward, member: Member, room: int, *, read: bool) -> Locator:
        name = label(f"{self.where}/{member.name}")
        if member.sparse:
            return Failed(name, _SPARSE)
        if member.size > room:
            return Failed(name, too_big(member.size, room))
        data = stream.read(member.size) if read else b""
        return Failed(name, "truncated file") if read and len(data) < member.size else Held(name, data)


def open_archive(path: Path) -> Part:
    """List the images of a zip or tar archive; a damaged one gives its readable list, then one unreadable image."""
    if path.suffix.lower() == ".zip":
        return Listed(_list_zip(path))
    try:
        with open(path, "rb") as file:
            if packing(file.read(6)):
                return Streamed(str(path))
            return Listed(list(_list_tar(file, path)))
    except OSError as error:
        return Listed([Failed(label(str(path)), os_reason(error))])


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
        return [Failed(label(str(path)), damaged(error))]
    return [InZip(label(f"{path}/{info.filename}"), archive, info) for info in members]


def _list_tar(file: BinaryIO, path: Path) -> Iterator[Locator]:
    try:
        for sample in _samples(walk_tar(file)):
            members = {member.name: member for member in sample}
            for name in _images_of(list(members)):
                member, image = members[name], label(f"{path}/{name}")
                if member.sparse:
                    yield Failed(image, _SPARSE)
                else:
                    yield InTar(image, str(path), member.offset, member.size)
    except Exception as error:
        yield Failed(label(str(path)), damaged(error))


def _samples(members: Iterable[Member]) -> Iterator[Iterator[Member]]:
    """Group neighbouring members by their WebDataset key: the path up to the first dot of the file name."""

    def keyed() -> Iterator[tuple[tuple[str, int], Member | Exception]]:
        key, count = "", 0
        try:
            for member in members:
                found = _key(member.name)[0]
                key, count = (key, count + 1) if found == key else (found, 0)
                # In an archive of IMG.0001.jpg, IMG.0002.jpg, ... all share a key: cut, for a stream holds a whole sample.
                yield (key, count // _SAMPLE_MEMBERS), member
        except NoEndMark:  # nothing is lost
            return
        except Exception as error:  # the sample before it is used as far as it is complete
            yield ("", -1), error

    def checked(sample: Iterable[tuple[object, Member | Exception]]) -> Iterator[Member]:
        for _, member in sample:
            if isinstance(member, Exception):
                raise member
            yield member

    return (checked(sample) for _, sample in itertools.groupby(keyed(), lambda pair: pair[0]))


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


def _close(file: Any) -> None:
    if file is None:
        return
    # The command behind a pipe: may still wait for something when we stop early, and closing would wait for it.
    process = getattr(file, "proc", None)
    if process is not None and process.poll() is None:
        process.kill()
    with suppress(Exception):  # webdataset reports the killed command as an error
        file.close()
