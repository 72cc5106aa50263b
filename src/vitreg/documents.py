"""Read JSON, text and XML from elsewhere; every fault becomes one sentence.

JSON can be broken in more ways than `json.loads` documents: bytes that are not text, numbers of a million digits,
nesting that exhausts the parser's stack, gigabytes. No torch here.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from vitreg.errors import UserError

LIMIT = 64 * 2**20  # bytes; the index of the largest sharded model has under 1 MB
TABLE_LIMIT = 2**30  # bytes, for tables and lists with a line per image; CC3M's captions are 0.5 GB


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: for invalid JSON; the message can end a sentence.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except MemoryError:
        raise ValueError("it does not fit into memory") from None


def read_json(path: Path, *, limit: int = LIMIT) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises:
        UserError: if it cannot be read, is larger, or is no JSON.
    """
    data = _bytes_of(path, limit, "a JSON file of settings")
    try:
        return parse_json(data)
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON ({error}).") from None


def read_text(path: Path, *, limit: int = LIMIT, what: str = "a list", errors: str = "strict") -> str:
    """Read a text file of at most `limit` bytes.

    Args:
        what: what the file should be, for the message.
        errors: how to decode; "surrogateescape" for file names, which may be any bytes.
    Raises:
        UserError: if it cannot be read, is larger, or is no UTF-8.
    """
    try:
        return _bytes_of(path, limit, what).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).") from None


def read_lines(path: Path, *, limit: int = LIMIT, errors: str = "strict") -> list[str]:
    """Read the lines of a text file that are not empty, without the space around them.

    Raises:
        UserError: as `read_text`.
    """
    text = read_text(path, limit=limit, errors=errors)
    lines = re.split(r"[\r\n]", text)  # not splitlines: file names may contain its other separators
    return [line for line in map(str.strip, lines) if line]


def read_xml(path: Path, *, limit: int = LIMIT) -> ElementTree.Element:
    """Read the root of an XML file; Python's expat refuses entities that multiply without end.

    Raises:
        UserError: if it cannot be read, is larger than `limit` bytes, or is no XML.
    """
    data = _bytes_of(path, limit, "an XML file of annotations")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # an encoding that does not exist, among others
        raise UserError(f"{path} is no readable XML ({error}).") from None


def _bytes_of(path: Path, limit: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            large = os.fstat(file.fileno()).st_size > limit
            data = b"" if large else file.read(limit + 1)  # devices report no size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    if large or len(data) > limit:
        raise UserError(f"{path} is larger than {limit / 2**20:.0f} MB, too large for {what}.")
    return data
