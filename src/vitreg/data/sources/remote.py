"""Files behind URLs, fetched once into a cache folder: whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from vitreg.errors import UserError
from vitreg.writing.files import replacing

TRIES = (0, 1, 4, 16)  # seconds waited before each
_TIMEOUT = 60
_CHUNK = 1 << 20


class _Refused(Exception):  # noqa: N818
    """The server has no such file: asking again does not help."""


class _Interrupted(Exception):  # noqa: N818
    """The network failed. Not an OSError, which would mean the local disk."""


def cache_folder(name: str | None) -> Path:
    """Return the folder for fetched shards: the named one, or that of the user."""
    if name:
        return Path(name).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitreg" / "shards"


def cached(url: str, folder: Path) -> Path:
    """Return the cache path of a URL, whether or not it exists."""
    base = url.split("?")[0].split("#")[0].rstrip("/").rpartition("/")[2]
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base}"


def fetch(url: str, folder: Path) -> Path:
    """Return the cached file of a URL, fetching it if necessary.

    Processes that need the same file wait for the first one. http and https use urllib, other schemes the webdataset
    package.

    Raises:
        UserError: if it cannot be fetched, after several tries, or not be written.
    """
    path = cached(url, folder)
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the cache {folder}: {error.strerror or error}.") from error
    with _alone(path.with_name(f".{path.name}.lock")):
        if path.exists():  # fetched by the process we waited for
            return path
        problem = ""
        for seconds in TRIES:
            time.sleep(seconds)
            try:
                with replacing(path) as temporary:
                    _copy(url, temporary)
                return path
            except _Refused as error:
                problem = str(error)
                break
            except _Interrupted as error:
                problem = str(error)
    raise UserError(f"cannot fetch {url}: {problem}.")


def fetch_text(url: str) -> str | None:
    """Return a small file that may or may not lie behind an http(s) URL."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            return answer.read(_CHUNK * 64).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _copy(url: str, path: Path) -> None:
    with _opened(url) as (source, length), open(path, "wb") as file:
        while True:
            try:
                chunk = source.read(_CHUNK)
            except Exception as error:  # of the network, or of the command behind a pipe:
                raise _Interrupted(_reason(error)) from error
            if not chunk:
                break
            file.write(chunk)
        if length is not None and file.tell() < length:
            raise _Interrupted(f"the connection broke after {file.tell()} of {length} bytes")


@contextlib.contextmanager
def _opened(url: str) -> Generator[tuple[Any, int | None], None, None]:
    if url.startswith(("http://", "https://")):
        try:
            answer = urllib.request.urlopen(url, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            kind = _Refused if 400 <= error.code < 500 and error.code not in (408, 429) else _Interrupted
            raise kind(f"the server says {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            raise _Interrupted(_reason(error)) from error
        with answer:
            length = answer.headers.get("Content-Length", "")
            yield answer, int(length) if length.isdigit() else None
        return
    try:
        from webdataset.gopen import gopen
    except ImportError:
        raise UserError(f"'{url}' needs the webdataset package: pip install 'vitreg[scale]'.") from None
    try:
        pipe: Any = gopen(url)
    except Exception as error:
        raise _Interrupted(_reason(error)) from error
    try:
        yield pipe, None
    finally:
        try:
            pipe.close()
        except Exception as error:  # the command failed, and its output is incomplete
            raise _Interrupted(_reason(error)) from error


@contextlib.contextmanager
def _alone(lock: Path) -> Generator[None, None, None]:
    """Admit one process of this machine at a time; the lock ends with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: two may fetch the same file; each renames a whole one
        yield
        return
    try:
        file = open(lock, "w")  # noqa: SIM115  closed below
    except OSError as error:
        raise UserError(f"cannot write to the cache {lock.parent}: {error.strerror or error}.") from error
    with file:
        with contextlib.suppress(OSError):  # a network disk may know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return " ".join(str(text).split())[:120].rstrip(".") or type(error).__name__
