"""Timings of alternatives on this machine: measured once, stored with the processor and PyTorch's version.

Stored, so that one machine always makes the same choice: alternatives differ in their last bits. Processes that measure
at the same time use the first result written; if nothing can be written, each process measures for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

ROUNDS = 9

_known: dict[str, dict[str, float]] = {}  # fixed for the life of this process


def times(what: str, prepare: Callable[[], Mapping[str, Callable[[], object]]]) -> dict[str, float]:
    """Return the milliseconds of each candidate on one thread, as they were first measured on this machine.

    Args:
        what: name of the choice; with the machine it is the key under which the times are kept.
        prepare: builds the inputs and returns the candidates by name.
    """
    if what not in _known:
        key = f"{what}, {_machine()}, torch {torch.__version__}"
        file = _folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        candidates = prepare()
        _known[what] = _read(file, key, candidates) or _write(file, key, _measure(candidates), candidates)
    return _known[what]


def known() -> dict[str, dict[str, float]]:
    """Return all timings of this process, for `adopt` in another one."""
    return dict(_known)


def adopt(others: Mapping[str, dict[str, float]]) -> None:
    """Take over another process's timings: processes of one run must choose alike."""
    _known.update(others)


def _measure(candidates: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Best of interleaved rounds in processor time of one thread, which a busy machine hardly changes.

    The first round does not count: it compiles kernels and fetches memory.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for each in range(ROUNDS + 1):
                for name, work in candidates.items():
                    start = time.thread_time()
                    work()
                    if each:
                        taken[name].append(1e3 * (time.thread_time() - start))
    finally:
        torch.set_num_threads(threads)
    return {name: round(min(values), 4) for name, values in taken.items()}


def _folder() -> Path:
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home: nothing is kept
        root = Path(os.devnull)
    return root / "vitreg" / "measured"


def _read(file: Path, key: str, candidates: Mapping[str, object]) -> dict[str, float] | None:
    """Return the stored times, None if there are none or they are invalid."""
    try:
        held = json.loads(file.read_bytes())
        kept = {str(name): float(value) for name, value in held["milliseconds"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    usable = held.get("what") == key and kept.keys() == candidates.keys()
    return kept if usable and all(math.isfinite(value) and value > 0 for value in kept.values()) else None


def _write(file: Path, key: str, found: dict[str, float], candidates: Mapping[str, object]) -> dict[str, float]:
    """Store times, and return the stored ones: the first process to write wins. A failed write is ignored."""
    if not all(value > 0 for value in found.values()):
        return found  # the clock did not advance
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w") as out:
                json.dump({"what": key, "milliseconds": found}, out)
            try:
                os.link(temporary, file)  # unlike a rename, never replaces an existing file
            except OSError:
                if _read(file, key, candidates) is None:
                    os.replace(temporary, file)  # what is there is damaged, or the file system has no links
        finally:
            temporary.unlink(missing_ok=True)
    return _read(file, key, candidates) or found


def _machine() -> str:
    """Return what determines this processor's speed: its model, its instruction sets, and those disabled for oneDNN."""
    words = {"model name": platform.processor() or platform.machine()}
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
        words |= {
            name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())
        }
    kind = [words.get(name, "") for name in ("model name", "cpu family", "model", "stepping")]
    flags = hashlib.sha256(words.get("flags", "").encode()).hexdigest()[:8]
    limits = [os.environ[name] for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ]
    return " ".join([*kind, flags, *limits])
