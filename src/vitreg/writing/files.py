"""Writing that never leaves half a file behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitreg.documents import parse_json
from vitreg.errors import UserError, nearest


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds and is removed if not.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    # An unpredictable name: nobody can have planted a link or a file under it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> Path:
    """Write a file that replaces none: where its name is taken, `name-2`, `name-3` and so on is. It is never seen half.

    Returns:
        the file.
    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")  # not of the name, which may be as long as names can be
    others = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    try:
        temporary.write_bytes(data)
        for free in itertools.chain([path], others):
            with contextlib.suppress(FileExistsError):
                _linked(temporary, free)
                return free
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    raise AssertionError("numbers do not end")


def _linked(temporary: Path, path: Path) -> None:
    """Give a finished file a second name. Raises FileExistsError if it is taken."""
    try:
        os.link(temporary, path)  # unlike a rename, never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        os.replace(temporary, path)


def for_others(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, each with the permissions of one that a program makes (0666 without the umask).

    Some libraries write through temporary files that only their owner may read: safetensors since 0.8.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | (0o666 & ~umask))
            yield path


def kept_name(path: Path) -> Path:
    """Return a free name beside a file or folder, to move it aside instead of losing it."""
    names = (path.with_name(f"{path.name}.kept-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def texts(files: Mapping[str, str]) -> Callable[[Path], None]:
    """Return what writes these texts into a folder, by their names: for `Outputs.publish`."""

    def write(place: Path) -> None:
        for name, text in files.items():
            write_text(place / name, text)

    return write


def refuse_other_result(folder: Path, own: Mapping[str, str], read: Callable[[Any], Mapping[str, str]]) -> None:
    """Refuse to overwrite the result of another measurement; repeating the same one is fine.

    Args:
        own: identifies the new measurement, such as {"task": "knn", "model": ..., "data": ...}.
        read: extracts the same keys from a result.json; a KeyError or TypeError means that another verb wrote it.
    Raises:
        UserError: if the folder holds the result of something else.
    """
    try:
        held = parse_json((folder / "result.json").read_bytes())
    except (OSError, ValueError):
        return
    try:
        before = read(held)
    except (KeyError, TypeError):
        before = {"made by": "another verb"}
    if before != own:
        what = ", ".join(f"{name} {value}" for name, value in before.items() if value)
        raise UserError(f"{folder} holds another result ({what}); name another folder with --out.")


def run_folder(name: str | Path) -> Path:
    """Return the folder of a training run, named with or without `run:` before it."""
    return Path(str(name).removeprefix("run:")).expanduser()


def printable(text: str) -> str:
    """Make a text fit for JSON, UTF-8, a terminal and a page, on one line.

    File names on Linux may hold bytes that are not text, line ends, terminal escape sequences, and marks that reverse
    the reading direction. Each becomes its Python escape, such as \\x1b.
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@contextlib.contextmanager
def results_folder(path: str | Path | None) -> Generator[Path | None, None, None]:
    """Create the folder for results, as `output_folder` does; if the block fails, remove the new folders that are
    empty.

    Raises:
        UserError: as `output_folder` does.
    """
    if path is None:
        yield None
        return
    with _folder(Path(path), keep=True) as folder:
        yield folder


def refuse_folder(path: Path, check: Callable[[], object]) -> None:
    """Raise the errors of `output_folder` and `check` for a folder, and leave no new folder behind."""
    with _folder(path, keep=False):
        check()


@contextlib.contextmanager
def _folder(folder: Path, *, keep: bool) -> Generator[Path, None, None]:
    made = [each for each in (folder, *folder.parents) if not each.exists()]  # the deepest first
    done = False
    try:
        yield output_folder(folder)
        done = True
    finally:
        if not (done and keep):
            with contextlib.suppress(OSError):  # stop at the first folder that is not empty
                for each in made:
                    each.rmdir()


def output_folder(path: Path) -> Path:
    """Create the folder for results and prove that it can be written, before any work is done.

    Raises:
        UserError: if it is a file, cannot be created, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file; name a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 65536)
            probe.flush()
    except OSError as error:
        raise UserError(f"cannot write to --out {path}: {error.strerror or error}.") from error
    return path


def missing(path: str | Path, what: str = "file or folder") -> UserError:
    """Build the error for a path that does not exist, with similar names beside its first missing part."""
    absent = Path(os.path.expanduser(path))
    while not os.path.lexists(absent.parent) and absent.parent != absent:
        absent = absent.parent
    try:
        close = nearest(absent.name, os.listdir(absent.parent))
    except OSError:
        close = []
    if close:
        names = " or ".join(repr(str(absent.parent / name)) for name in close)
        return UserError(f"no {what} '{path}'. Did you mean {names}?")
    if absent.parent.resolve() in (Path.cwd(), Path(absent.anchor)):  # says nothing
        return UserError(f"no {what} '{path}'.")
    return UserError(f"no {what} '{path}'; the nearest that exists is '{absent.parent}'.")
