"""Standard streams whose failure loses no result, and text that cannot control a terminal.

Hours of work must not fail because output cannot be printed: a closed stream, a full disk, a pipe whose reader has left
(`| head`), or a character outside the encoding. No torch here.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import sys
from typing import TextIO

from vitreg.console.exits import Exit
from vitreg.errors import UserError
from vitreg.writing.files import printable

NARROWEST, WIDEST = 40, 500  # columns: with fewer, tyro's help fails or never ends
MOST_LOST = 2**16  # bytes of lost output kept, to report them on standard error


def say(text: object = "", *, error: bool = False) -> None:
    """Print lines at once, with the control characters of the names in them escaped; to standard error if `error`."""
    print("\n".join(map(printable, str(text).split("\n"))), file=sys.stderr if error else sys.stdout, flush=True)


def make_streams_last() -> None:
    """Replace the standard streams by ones that never raise, and open closed ones. Call once, at the start.

    Replaced streams, such as those of a test, are left alone.
    """
    for _ in range(3):  # else the next opened file would become standard output
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, 2)
    with contextlib.suppress(ValueError, OSError):
        width = shutil.get_terminal_size().columns
        if not NARROWEST <= width <= WIDEST:
            os.environ["COLUMNS"] = str(min(max(width, NARROWEST), WIDEST))


def ending(error: BaseException) -> int:
    """Print in one sentence what ended a command, and return its exit code. Bugs of vitreg are raised again."""
    if isinstance(error, SystemExit):  # --help
        return error.code if isinstance(error.code, int) else Exit.DONE
    if isinstance(error, UserError):
        say(printable(f"vitreg: {error.sentence}"), error=True)
        return Exit.MISTAKE
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the clean-up at once
        say(f"vitreg: interrupted; {error.args[0] if error.args else 'nothing was written'}.", error=True)
        return Exit.INTERRUPTED
    raise error


def settle(code: int) -> int:
    """Print output that standard output refused on standard error: it may name the result.

    Returns:
        the exit code: `Exit.MISTAKE` if output was lost and the command itself succeeded. If the reader closed the
        pipe, nothing counts as lost.
    """
    raw = _raw_of(sys.stdout)
    if raw is None:
        return code
    sys.stdout.flush()
    if raw.failure is None or raw.failure.errno == errno.EPIPE:
        return code
    say(f"vitreg: standard output takes no more ({raw.failure.strerror}); it was to read:", error=True)
    say(raw.lost.decode(sys.stdout.encoding, "replace").rstrip("\n"), error=True)
    return code or Exit.MISTAKE


class _Raw(io.FileIO):
    """A file that never raises: after the first failure it keeps the error and the last bytes written."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None
        self.lost = b""

    def write(self, data: object) -> int:
        """Write, or keep what cannot be written."""
        piece = bytes(data)  # type: ignore[call-overload]  # any buffer, as FileIO takes it
        if self.failure is None:
            try:
                return super().write(piece) or 0
            except OSError as error:
                self.failure = error
        self.lost = (self.lost + piece)[-MOST_LOST:]
        return len(piece)


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    by_line = descriptor == 2 or os.isatty(descriptor) or bool(stream and getattr(stream, "write_through", False))
    encoding = stream.encoding if stream else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(descriptor)), encoding=encoding, errors="backslashreplace", line_buffering=by_line
    )


def _raw_of(stream: TextIO) -> _Raw | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Raw) else None
