"""Reading JSON that somebody else wrote: whatever is wrong with it becomes one sentence.

A foreign file can be no JSON in more ways than `json.loads` documents: bytes that are no text, numbers of a million
digits, brackets nested until the parser's stack ends, gigabytes. No torch here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitreg.errors import UserError

LIMIT = 64 * 2**20  # bytes; the index of the largest sharded model has under 1 MB


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: for anything that is no JSON, with a message that ends a sentence.
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
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    if len(data) > limit:
        raise UserError(f"{path} is larger than {limit // 2**20} MB, too large for a JSON file of settings.")
    try:
        return parse_json(data)
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON ({error}).") from None
