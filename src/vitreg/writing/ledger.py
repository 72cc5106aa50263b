"""The ledger: a hidden list of the files that vitreg wrote into a folder, and proof that each is unchanged.

Only files that the list proves may be replaced or deleted. Size and SHA-256 prove a file. Above 64 MiB an unchanged
size and modification time are enough, because hashing gigabytes before every run would cost minutes; if the time
differs, as after copying the folder, the hash decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Container, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from vitreg.errors import UserError
from vitreg.records import Record

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

LEDGER = ".vitreg.json"
LOCK = ".vitreg.lock"  # of a run while it is trained
LARGE = 64 << 20  # bytes
_BEGINNING = 4096  # bytes of a record: its schema stands first
_DRAWN = {
    "result.json": {
        "vitreg.scan": ("figures",),
        "vitreg.discover": ("pictures",),
        "vitreg.eval": ("complexity.png", "depth.png", "segmentation.png"),
    },
    "curves.json": {"vitreg.curves": ("curves.png",)},
}


class Written(Record):
    """One file as it was when vitreg wrote it."""

    by: str = Field(description="the verb")
    bytes: int
    modified: int = Field(description="nanoseconds, as the file system tells")
    sha256: str


class LedgerRecord(Record):
    """The whole of ``.vitreg.json``."""

    schema_: Literal["vitreg.files/1"] = Field(default="vitreg.files/1", alias="schema")
    files: dict[str, Written] = Field(description="by path inside the folder, with slashes")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The files that vitreg wrote into a folder."""

    folder: Path
    files: Mapping[str, Written] = field(default_factory=dict)

    def proves(self, name: str) -> bool:
        """Whether vitreg wrote this file and nobody has changed it since."""
        return name in self.files and is_still(self.folder, name, self.files[name])

    def of(self, verb: str) -> list[str]:
        """Name the files that a verb wrote."""
        return [name for name, written in self.files.items() if written.by == verb]

    def why_foreign(self, name: str, verb: str) -> str | None:
        """Say why this verb may not replace an existing file; None if it may."""
        path, known = spelled(self.folder / name), self.files.get(name)
        if not self.files:  # results of vitreg 0.1.0 have no list
            return (
                f"{path} exists, and no {LEDGER} beside it says that vitreg wrote it (an earlier vitreg kept none, and a "
                "copy may lack hidden files)"
            )
        if known is None:
            return f"{path} exists and is not on vitreg's list of its own files"
        if known.by != verb:
            return f"{path} was written by vitreg {known.by}"
        return None if self.proves(name) else f"{path} was changed since vitreg wrote it"

    def why_taken(self, name: str, verb: str) -> str | None:
        """Say why a verb may not use a name; None where it is free or may be replaced.

        Args:
            name: a file; with a slash at the end, a folder with everything in it.
        """
        for parent in [*reversed(PurePosixPath(name).parents[:-1]), *([name] if name.endswith("/") else [])]:
            path = self.folder / parent
            if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                return f"{spelled(path)} is in the way of a folder that vitreg makes"
        if name.endswith("/"):
            inside = (self.why_foreign(file, verb) for file in _files_in(self.folder, name.rstrip("/")))
            return next((why for why in inside if why is not None), None)
        return self.why_foreign(name, verb) if os.path.lexists(self.folder / name) else None


def read_ledger(folder: Path) -> Ledger:
    """Return what vitreg wrote into a folder; nothing where there is no list.

    Raises:
        UserError: if the file is not a valid list.
    """
    path = folder / LEDGER
    try:
        record = LedgerRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return Ledger(folder)
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{path} is damaged, or is not the list of files that vitreg keeps there; move the folder away, or name "
            "another with --out."
        ) from error
    # A copied folder may bring any list: entries outside the folder are ignored.
    return Ledger(folder, {name: known for name, known in record.files.items() if is_inside(name)})


def is_inside(name: str) -> bool:
    """Whether a name from a ledger or from `Moves` stays inside its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name


def write_ledger(path: Path, ledger: Ledger) -> None:
    """Write the list of a folder through a draft file; a link at the draft's path is not followed."""
    path.unlink(missing_ok=True)
    path.write_text(LedgerRecord(files=dict(sorted(ledger.files.items()))).model_dump_json(indent=1), encoding="utf-8")


def written(path: Path, verb: str) -> Written:
    """Describe a file that was just written."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    return Written(by=verb, bytes=status.st_size, modified=status.st_mtime_ns, sha256=digest)


def is_still(folder: Path, name: str, known: Written) -> bool:
    """Whether a regular file, not reached through a link, is unchanged."""
    path = folder / name
    if through_link(folder, name):
        return False
    try:
        if not path.is_file() or path.stat().st_size != known.bytes:
            return False
        if known.bytes > LARGE and path.stat().st_mtime_ns == known.modified:
            return True
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == known.sha256
    except OSError:
        return False


def through_link(folder: Path, name: str) -> bool:
    """Whether a name inside a folder is a link, or leads through one."""
    path = folder / name
    return any(each.is_symlink() for each in (path, *path.parents[: len(PurePosixPath(name).parts) - 1]))


def own_files(folder: str, suffixes: Container[str]) -> set[str]:
    """Return the files with these suffixes that vitreg provably wrote into a folder.

    A copied folder often lacks the hidden list. Then the figures of a record count as vitreg's too: enough to leave
    them out of the input images, never to replace them.
    """
    ledger = Ledger(Path(folder))
    with contextlib.suppress(UserError):  # a damaged list proves nothing
        ledger = read_ledger(ledger.folder) if os.path.isfile(ledger.folder / LEDGER) else ledger
    named = (name for name in ledger.files if PurePosixPath(name).suffix.lower() in suffixes)
    proven = {os.path.join(folder, *name.split("/")) for name in named if ledger.proves(name)}
    drawn = _drawn_beside(folder, ledger.files)
    return proven | {path for path in drawn if os.path.splitext(path)[1].lower() in suffixes}


def _drawn_beside(folder: str, listed: Container[str]) -> Iterator[str]:
    """Yield the figures of records in a folder that are not on its list."""
    for record, schemas in _DRAWN.items():
        if record in listed or not os.path.isfile(os.path.join(folder, record)):
            continue
        try:
            with open(os.path.join(folder, record), "rb") as file:
                found = re.search(rb'"schema":\s*"(vitreg\.\w+)/\d+"', file.read(_BEGINNING))
        except OSError:
            continue
        for name in schemas.get(found[1].decode(), ()) if found else ():
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # a file, or not there
                yield from (os.path.join(path, each) for each in os.listdir(path))
            yield path


def note_written(folder: Path, names: Iterable[str], verb: str, *, forget: Iterable[str] = ()) -> None:
    """Add files that a verb wrote to the list of the folder."""
    with alone(folder):
        before = read_ledger(folder).files
        gone = set(forget)
        kept = {n: w for n, w in before.items() if n not in gone and os.path.lexists(folder / n)}
        added = {name: written(folder / name, verb) for name in names}
        draft = folder / f"{LEDGER}.{secrets.token_hex(8)}.part"
        try:
            write_ledger(draft, Ledger(folder, {**kept, **added}))
            os.replace(draft, folder / LEDGER)
        finally:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None, None, None]:
    """Lock a folder's files and their list against other vitreg processes; go on if the system cannot lock."""
    descriptor = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if descriptor is not None and fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def spelled(path: Path) -> Path:
    """Return a path with its last name as the folder spells it: some file systems ignore case."""
    with contextlib.suppress(OSError):
        names = os.listdir(path.parent)
        if path.name not in names:
            for name in names:
                if name.casefold() == path.name.casefold() and os.path.samefile(path.parent / name, path):
                    return path.with_name(name)
    return path


def _files_in(folder: Path, name: str) -> Iterator[str]:
    """List all files below a subfolder, without hidden ones (.DS_Store)."""
    for where, folders, files in os.walk(folder / name):
        folders[:] = [each for each in folders if not each.startswith(".")]
        links = [each for each in folders if os.path.islink(os.path.join(where, each))]
        for file in sorted([*files, *links]):
            if not file.startswith("."):
                yield (Path(where) / file).relative_to(folder).as_posix()
